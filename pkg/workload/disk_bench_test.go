package workload

import (
	"encoding/json"
	"fmt"
	"testing"
)

// BenchmarkParseDisk200Pods is what the agent does, off its hot thread, with each new disk.json.
func BenchmarkParseDisk200Pods(b *testing.B) {
	table := DiskTable{Schema: DiskSchema, Node: "n", WrittenNs: 90 * second}
	at := Reading{ReadNs: 80 * second}
	for i := range 200 {
		v := int64(i) << 20
		table.Workloads = append(table.Workloads, DiskEntry{
			UID:              fmt.Sprintf("0f0e2b6a-6a3b-4c59-9a0e-%012d", i),
			EphemeralStorage: &EphemeralStorage{Reading: at, RootfsBytes: &v, LogsBytes: &v, LocalVolumesBytes: &v, UsedBytes: &v},
			Inodes:           &Inodes{Reading: at, Rootfs: &v, Logs: &v, LocalVolumes: &v},
			Volumes:          []VolumeDisk{{Reading: at, Name: "cache", UsedBytes: &v}, {Reading: at, Name: "scratch", UsedBytes: &v}},
			Containers:       []ContainerDisk{{Reading: at, Name: "web", RootfsBytes: &v, LogsBytes: &v}, {Reading: at, Name: "proxy", RootfsBytes: &v, LogsBytes: &v}},
		})
	}
	data, err := json.Marshal(&table)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseDisk(data); err != nil {
			b.Fatal(err)
		}
	}
}
