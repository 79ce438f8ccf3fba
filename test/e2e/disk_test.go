package e2e

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/load"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
	"github.com/ebpf-evict/ebpf-evict/test/loopfs"
)

// figures writes what each unit holds on disk, read now.
func (w *world) figures(bytesOf, inodesOf map[string]int64) {
	w.t.Helper()
	var ts unix.Timespec
	must(w.t, unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts))
	now := ts.Nano()
	table := map[string]any{"schema": "ebpf-evict/disk/v1", "node": "n", "writtenNs": now}
	units := []any{}
	for unit, held := range bytesOf {
		units = append(units, map[string]any{
			"uid":              path.Join(w.root, unit),
			"ephemeralStorage": map[string]int64{"readNs": now, "rootfsBytes": 0, "logsBytes": 0, "localVolumesBytes": held},
			"inodes":           map[string]int64{"readNs": now, "rootfs": 0, "logs": 0, "localVolumes": inodesOf[unit]},
			"volumes":          []any{map[string]any{"readNs": now, "name": "cache", "usedBytes": held}},
		})
	}
	table["workloads"] = units
	if w.reclaimed != nil {
		table["reclaim"] = w.reclaimed
	}
	data, err := json.Marshal(table)
	must(w.t, err)
	file := w.diskFile()
	must(w.t, os.WriteFile(file+".new", data, 0o600))
	must(w.t, os.Rename(file+".new", file))
}

func (w *world) diskFile() string { return filepath.Join(w.dir, "disk.json") }

// onDisk are the keys that make dir the one filesystem of the node.
func (w *world) onDisk(dir string) string {
	return fmt.Sprintf("nodefs: %q\nimagefs: %q\ndisk: %q\nreclaim: %q\nreclaimDeadline: %s\n",
		dir, dir, w.diskFile(), w.reclaimFile(), cmp.Or(w.answersWithin, time.Second))
}

func (w *world) reclaimFile() string { return filepath.Join(w.dir, "reclaim.json") }

func (w *world) available(dir string) (bytes, inodes int64) {
	w.t.Helper()
	var fs unix.Statfs_t
	must(w.t, unix.Statfs(dir, &fs))
	return int64(fs.Bavail) * fs.Frsize, int64(fs.Ffree)
}

func TestFullDiskEvictsByTheFiguresSupplied(t *testing.T) {
	binary(t)
	for _, fs := range []struct {
		mebibytes int64
		mkfs      []string
	}{
		{64, []string{"mkfs.ext4", "-q"}},
		{320, []string{"mkfs.xfs", "-q"}},
	} {
		t.Run(fs.mkfs[0]+" bytes", func(t *testing.T) {
			dir := loopfs.New(t, fs.mebibytes, "", fs.mkfs...)
			diskScene(t, dir, "nodefs.available", func(w *world) (threshold int64, fill func() error) {
				bytes, _ := w.available(dir)
				n := 0
				return bytes - 16<<20, func() error {
					n++
					return os.WriteFile(filepath.Join(dir, fmt.Sprint("file-", n)), make([]byte, 1<<20), 0o600)
				}
			})
		})
		t.Run(fs.mkfs[0]+" inodes", func(t *testing.T) {
			dir := loopfs.New(t, fs.mebibytes, "", fs.mkfs...)
			diskScene(t, dir, "nodefs.inodesFree", func(w *world) (threshold int64, fill func() error) {
				_, inodes := w.available(dir)
				n := 0
				return inodes - 500, func() error {
					for range 50 {
						n++
						if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("file-", n)), nil, 0o600); err != nil {
							return err
						}
					}
					return nil
				}
			})
		})
	}
}

// diskScene fills a filesystem until the unit that holds most of it is evicted.
func diskScene(t *testing.T, dir, signal string, prepare func(*world) (threshold int64, fill func() error)) {
	w := newWorld(t)
	threshold, fill := prepare(w)
	old := w.load("old", load.Spec{Kind: load.Sleeper, Hold: 32 << 20})
	writer := w.load("writer", load.Spec{Kind: load.Sleeper, Hold: 1 << 20})
	supply := func() {
		w.figures(map[string]int64{"old": 1 << 20, "writer": 20 << 20}, map[string]int64{"old": 5, "writer": 400})
	}
	supply()
	w.extra = w.onDisk(dir)
	w.start(map[string]string{signal: fmt.Sprint(threshold)})
	w.await("the eviction", func() bool {
		if w.count(record.KindKill) > 0 {
			return true
		}
		supply()
		if bytes, inodes := w.available(dir); signal == "nodefs.available" && bytes >= threshold || signal == "nodefs.inodesFree" && inodes >= threshold {
			must(t, fill())
		}
		return false
	})
	l := w.lines(record.KindKill)[0]
	if l.Signal != signal || l.Victim.Cgroup != path.Join(w.root, "writer") || l.Tier != "poll" {
		t.Errorf("%s by %s evicted %+v, want the writer for %s", l.Signal, l.Tier, l.Victim, signal)
	}
	if l.Observed.Available >= threshold {
		t.Errorf("%d available, not below %d", l.Observed.Available, threshold)
	}
	w.await("the writer's end", func() bool { return !writer.Alive() })
	if !old.Alive() {
		t.Error("who holds little of the disk died for it")
	}
	if !strings.HasPrefix(l.Message, "The node was low on resource: ") {
		t.Errorf("message %q", l.Message)
	}
}

// What the container runtime can remove goes first: with images enough nobody dies.
func TestImagesGoBeforeAUnit(t *testing.T) {
	bin := binary(t)
	dir := loopfs.New(t, 64, "", "mkfs.ext4", "-q")
	w := newWorld(t)
	unit := w.load("unit", load.Spec{Kind: load.Sleeper, Hold: 1 << 20})
	image := filepath.Join(dir, "image")
	must(t, os.WriteFile(image, make([]byte, 32<<20), 0o600))
	supply := func() { w.figures(map[string]int64{"unit": 20 << 20}, map[string]int64{"unit": 5}) }
	supply()
	w.answersWithin = patience
	w.extra = w.onDisk(dir)
	w.start(map[string]string{"nodefs.available": "32Mi"})
	w.await("the line of the reclaim", func() bool {
		if request, err := workload.LoadReclaim(w.reclaimFile(), 0); err == nil && w.reclaimed == nil {
			must(t, os.Remove(image))
			var ts unix.Timespec
			must(t, unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts))
			w.reclaimed = map[string]any{"id": request.ID, "signal": request.Signal, "doneNs": ts.Nano(), "freedBytes": 32 << 20, "images": 1}
		}
		supply()
		return w.count(record.KindReclaim) == 1
	})
	if l := w.lines(record.KindReclaim)[0]; !unit.Alive() || w.count(record.KindKill) != 0 || l.Reclaim.Images != 1 || *l.Reclaim.FreedBytes != 32<<20 {
		t.Errorf("the unit lives: %v, %d kills, %+v", unit.Alive(), w.count(record.KindKill), l.Reclaim)
	}
	out, err := exec.Command(bin, "history", "--journal", w.journal).Output()
	if err != nil || !strings.Contains(string(out), "32.0 MiB  recovered") {
		t.Errorf("history: %v\n%s", err, out)
	}
}

// An emptyDir above its limit, on a node that has all the space in the world.
func TestEmptyDirAboveItsLimitIsEvicted(t *testing.T) {
	binary(t)
	w := newWorld(t)
	over, within := w.load("over", load.Spec{Kind: load.Sleeper, Hold: 1 << 20}), w.load("within", load.Spec{Kind: load.Sleeper, Hold: 1 << 20})
	var units []string
	for _, unit := range []string{"over", "within"} {
		units = append(units, fmt.Sprintf(`{"uid":%q,"name":%q,"volumes":[{"name":"cache","sizeLimitBytes":%d}]}`, path.Join(w.root, unit), unit, 10<<20))
	}
	table := fmt.Sprintf(`{"schema":"ebpf-evict/workloads/v1","node":"n","generation":1,"workloads":[%s]}`, strings.Join(units, ","))
	must(t, os.WriteFile(w.table(), []byte(table), 0o600))
	w.extra = fmt.Sprintf("disk: %q\n", w.diskFile())
	w.start(map[string]string{"allocatableMemory.available": "1Mi"})
	held := int64(10 << 20)
	w.await("the eviction", func() bool {
		w.figures(map[string]int64{"over": held, "within": 10 << 20}, nil)
		held += 1 << 20
		return w.count(record.KindEviction) > 0
	})
	l := w.lines(record.KindEviction)[0]
	took := evicted(t, l, path.Join(w.root, "over"))
	if l.Signal != "emptydirfs.limit" || l.Message != `Usage of EmptyDir volume "cache" exceeds the limit "10Mi". ` || over.Alive() || !within.Alive() {
		t.Errorf("%s, %q; alive: %v above, %v at the limit", l.Signal, l.Message, over.Alive(), within.Alive())
	}
	t.Logf("from the figure to SIGKILL: %v", took)
}

// A filesystem that goes away costs its own signals, and memory is protected all the same.
func TestVanishedDiskLeavesMemoryProtected(t *testing.T) {
	binary(t)
	dir := loopfs.New(t, 64, "", "mkfs.ext4", "-q")
	w := newWorld(t)
	bystander := w.load("bystander", load.Spec{Kind: load.Sleeper, Hold: 1 << 20})
	w.figures(map[string]int64{"bystander": 60 << 20}, nil)
	w.extra = w.onDisk(dir)
	w.start(map[string]string{"nodefs.available": "1Mi", "allocatableMemory.available": "500Mi"})
	must(t, unix.Unmount(dir, unix.MNT_DETACH))
	w.await("the line that says so", func() bool {
		for _, l := range w.lines(record.KindDegraded) {
			if l.Signal == "nodefs.available" {
				return true
			}
		}
		return false
	})
	w.load("hog", load.Spec{Kind: load.Hog, Bytes: 800 << 20})
	w.await("the hog's eviction", func() bool { return w.count(record.KindEviction) > 0 })
	evicted(t, w.lines(record.KindEviction)[0], path.Join(w.root, "hog"))
	if !bystander.Alive() {
		t.Error("the bystander died for a disk that nobody sees")
	}
}

// Without figures nobody is killed for a disk: an alarm, once.
func TestDiskWithoutFiguresKillsNobody(t *testing.T) {
	binary(t)
	dir := loopfs.New(t, 64, "", "mkfs.ext4", "-q")
	w := newWorld(t)
	unit := w.load("unit", load.Spec{Kind: load.Sleeper, Hold: 1 << 20})
	w.extra = w.onDisk(dir)
	w.start(map[string]string{"nodefs.available": "99%"})
	w.await("the refusal", func() bool { return w.count(record.KindEviction) > 0 })
	if l := w.lines(record.KindEviction)[0]; l.Outcome != record.OutcomeRefused || !unit.Alive() {
		t.Errorf("%s: %s; it lives: %v", l.Outcome, l.Reason, unit.Alive())
	}
}

func TestSIGHUPTakesANewConfigurationOver(t *testing.T) {
	binary(t)
	w := newWorld(t)
	big := w.load("big", load.Spec{Kind: load.Sleeper, Hold: 200 << 20})
	few := map[string]string{"allocatableMemory.available": "100Mi"}
	w.start(few)
	must(t, os.WriteFile(w.config(few), []byte("evictionHrad: {}\n"), 0o600))
	must(t, w.agent.Process.Signal(syscall.SIGHUP))
	w.config(map[string]string{"allocatableMemory.available": "900Mi"})
	must(t, w.agent.Process.Signal(syscall.SIGHUP))
	w.await("the eviction by the new threshold", func() bool { return w.count(record.KindEviction) > 0 })
	evicted(t, w.lines(record.KindEviction)[0], path.Join(w.root, "big"))
	if big.Alive() {
		t.Error("it lives")
	}
	if starts := w.count(record.KindStart); starts != 1 {
		t.Errorf("%d starts, want one", starts)
	}
}
