package snapshot

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const everything = `{"time":"2026-01-02T03:04:05.000000000Z","layout":{"dedicatedImageFs":true,"splitImageFs":false},
"signals":{"memory.available":{"availableBytes":-1,"capacityBytes":2,"time":"2026-01-02T03:04:04.500000000Z"},
"nodefs.inodesFree":{"available":3,"capacity":4}},
"afterReclaim":{"signals":{"nodefs.inodesFree":{"available":4,"capacity":4}}},
"workloads":[{"uid":"u","namespace":"n","name":"p","cgroup":"/kubepods/podu","qosClass":"Burstable","priority":-7,
"static":true,"mirror":true,"evict":"never","terminationGracePeriodSeconds":0,
"memory":{"workingSetBytes":0,"requestBytes":5,"podLevelRequestBytes":5},
"ephemeralStorage":{"rootfsBytes":1,"logsBytes":2,"logsElsewhereBytes":6,"localVolumesBytes":3,"usedBytes":7,"requestBytes":8,"limitBytes":0},
"inodes":{"rootfs":1,"logs":0,"logsElsewhere":5,"localVolumes":9},"processes":1,"tasks":2,
"volumes":[{"name":"v","medium":"Memory","usedBytes":1,"sizeLimitBytes":2},{"name":"w","medium":""}],
"containers":[{"name":"c","memoryWorkingSetBytes":1,"memoryRequestBytes":2,"logsBytes":3,"rootfsBytes":4,"ephemeralStorageRequestBytes":5,"ephemeralStorageLimitBytes":6},{"name":"d"}]},
{"uid":"known by name alone","memory":{"requestBytes":0},"ephemeralStorage":{},"inodes":{}}]}`

func TestWhatIsWrittenIsReadAgain(t *testing.T) {
	first, err := Parse([]byte(everything))
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(first)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if got := first.Workloads[0].Usage.Disk.LogsElsewhere; got.Bytes != 6 || got.Inodes != 5 {
		t.Errorf("logs elsewhere %+v", got)
	}
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("after a round (-first +second):\n%s\nas %s", diff, data)
	}
}

func TestUnknownFiguresAreNotWritten(t *testing.T) {
	s, err := Parse([]byte(`{"workloads":[{"uid":"u"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"layout":{"dedicatedImageFs":false,"splitImageFs":false},"signals":{},"workloads":[{"uid":"u","priority":0,"memory":{"requestBytes":0},"ephemeralStorage":{},"inodes":{}}]}`
	if diff := cmp.Diff(want, string(data)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
