package config

import (
	"errors"
	"strings"
	"testing"

	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
)

// checkThresholds holds what is accepted to what makes sense: an amount above zero or a
// share of at most all, whose text is another spelling of the same.
func checkThresholds(t *testing.T, c *Config) {
	t.Helper()
	ts, err := c.Thresholds()
	if err != nil {
		t.Fatalf("accepted, yet %v", err)
	}
	for _, th := range ts {
		v, r := th.Value, th.MinReclaim
		isShare := strings.HasSuffix(v.Text, "%")
		if isShare && !(v.Percent >= 0 && v.Percent <= 1 && v.Value == 0) || !isShare && (v.Value <= 0 || v.Percent != 0) {
			t.Fatalf("threshold %+v", th)
		}
		if again, err := thresholdValue("", v.Text); err != nil || again != v {
			t.Fatalf("%q is %+v, read again %+v, %v", v.Text, v, again, err)
		}
		if off(v.Text) {
			t.Fatalf("%+v would be off", v)
		}
		if again, err := minReclaimValue("", r.Text); r.Text != "" && (err != nil || again != r) {
			t.Fatalf("minimum reclaim %q is %+v, read again %+v, %v", r.Text, r, again, err)
		}
		const tebi = int64(1) << 43
		if r.Of(tebi) < 0 || th.GracePeriod < 0 {
			t.Fatalf("threshold %+v", th)
		}
	}
}

func checkError(t *testing.T, err error) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Key == "" || e.Want == "" {
		t.Fatalf("%v does not name key and form", err)
	}
}

func FuzzThreshold(f *testing.F) {
	for _, v := range []string{"100Mi", "1.5Gi", "1e9", "1E9", "+5Mi", "0100Mi", "5000", "0.5", "8Ei", "1e30", "-1", "0", "", "1n",
		"10%", "10%%", "1e1%", "0x1p3%", "0%", "100%", "0.0%", "100.0%", "-0%", "NaN%", "Inf%", "1e-50%", "%", "100.0000001%"} {
		f.Add(v, v, "1m30s")
	}
	f.Add("1Gi", "200%", "-1s")
	f.Fuzz(func(t *testing.T, value, reclaim, grace string) {
		c := Default()
		c.EvictionHard = map[string]string{"memory.available": value, "pid.available": value}
		c.EvictionSoft = map[string]string{"nodefs.available": value}
		c.EvictionSoftGracePeriod = map[string]string{"nodefs.available": grace}
		c.EvictionMinimumReclaim = map[string]string{"memory.available": reclaim, "nodefs.available": reclaim}
		if _, err := c.Thresholds(); err != nil {
			checkError(t, err)
			return
		}
		checkThresholds(t, c)
	})
}

func FuzzHeadroom(f *testing.F) {
	f.Add("100Mi", "20%")
	f.Add("100Mi", "200Mi")
	f.Add("10%%", "1e1%")
	f.Add("80%", "25%")
	f.Add("1e-40%", "0x1p-3%")
	f.Add("0.0%", "1%")
	f.Add("8Ei", "1n")
	f.Add("500m", "1048576%")
	f.Fuzz(func(t *testing.T, kubelets, room string) {
		key := map[string]string{"pid.available": kubelets}
		before := Config{EvictionHard: key}
		ts, err := before.Thresholds()
		if err != nil || len(ts) == 0 || !headroomOK(room) {
			return
		}
		raised, err := Headroom{Signals: map[string]string{"pid.available": room}}.raise("evictionHard", key)
		if err != nil {
			checkError(t, err)
			return
		}
		after := Config{EvictionHard: raised}
		checkThresholds(t, &after)
		now, _ := after.Thresholds()
		if len(now) != 1 || lower(now[0].Value, ts[0].Value) {
			t.Fatalf("%q with %q above it is %+v", kubelets, room, now)
		}
	})
}

func lower(a, b signal.Quantity) bool { return a.Value < b.Value || a.Percent < b.Percent }

func FuzzParse(f *testing.F) {
	const kubelet = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"
	f.Add([]byte("evictionHard: {memory.available: 500Mi}\nmode: enforce\n"), []byte(nil))
	f.Add([]byte("evictionSoft: {pid.available: 10%}\nevictionSoftGracePeriod: {pid.available: 1m}\nevictionMinimumReclaim: {pid.available: 5%}\n"), []byte(nil))
	f.Add([]byte("budget: {killsPerHour: 1}\nroots: [/a]\nmarginBytes: 1Gi\nnodefs: /\nhugepages: false\n"), []byte(nil))
	f.Add([]byte("---\n---\n"), []byte(nil))
	f.Add([]byte("kubeletConfig: /k\nheadroom: 20%\n"), []byte(kubelet+"cgroupRoot: /a-b/c\n"))
	f.Add([]byte("kubeletConfig: /k\nheadroom: {pid.available: 5}\nevictionHard: {}\n"), []byte(kubelet+"evictionSoft: {pid.available: 1k}\nevictionSoftGracePeriod: {pid.available: 0s}\n"))
	f.Add([]byte("kubeletConfig: /k\nmergeDefaultEvictionSettings: true\n"), []byte(kubelet+"evictionHard: {pid.available: 99%}\ncgroupsPerQOS: false\n"))
	f.Fuzz(func(t *testing.T, data, kubelets []byte) {
		read := func(string) ([]byte, error) { return kubelets, nil }
		c, err := parse(data, read)
		if err != nil {
			return
		}
		checkThresholds(t, c)
		if c.Mode != ModeShadow && c.Mode != ModeEnforce || !rootsOK(c.Roots) {
			t.Fatalf("mode %q, roots %q", c.Mode, c.Roots)
		}
		again, err := parse(data, read)
		if err != nil {
			t.Fatalf("accepted once, then %v", err)
		}
		if keys := c.Diff(again); keys != nil {
			t.Fatalf("the same files differ in %q", keys)
		}
		c.Warnings()
	})
}
