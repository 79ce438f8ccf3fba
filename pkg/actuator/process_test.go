package actuator

import (
	"os"
	"testing"
)

func TestParseStat(t *testing.T) {
	const tail = " S 1 7 7 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 5124563 2334720 193 18446744073709551615 0\n"
	for name, tc := range map[string]struct {
		stat string
		want Process
		bad  bool
	}{
		"plain":                     {stat: "7 (sleep)" + tail, want: Process{7, 5124563, 193}},
		"a name like the rest":      {stat: "7 (a) S 1 (b)" + tail, want: Process{7, 5124563, 193}},
		"cut off":                   {stat: "7 (sleep) S 1 7", bad: true},
		"no text":                   {bad: true},
		"a start that is no number": {stat: "7 (x) S 1 7 7 0 -1 4 100 0 0 0 1 2 0 0 20 0 1 0 z 2 193 1\n", bad: true},
		"a size that is no number":  {stat: "7 (x) S 1 7 7 0 -1 4 100 0 0 0 1 2 0 0 20 0 1 0 5 2 z 1\n", bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseStat(7, []byte(tc.stat))
			if (err != nil) != tc.bad || !tc.bad && got != tc.want {
				t.Errorf("got %+v, %v, want %+v", got, err, tc.want)
			}
		})
	}
}

func TestReadProcessOfThisOne(t *testing.T) {
	p, err := readProcess(os.Getpid())
	if err != nil || p.PID != os.Getpid() || p.StartTicks == 0 || p.rssPages == 0 {
		t.Errorf("%+v, %v", p, err)
	}
}
