package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// fast is a writer's rate in bytes a second.
const fast = 200_000_000

// An old pod holds most of the disk, but less than it asked for: who fills it now is evicted.
func TestWhoFillsTheDiskIsEvicted(t *testing.T) {
	for _, f := range both {
		for _, into := range []string{intoLayer, intoLog, intoEmptyDir("data")} {
			t.Run(f.kind+into, func(t *testing.T) { theWriterIsEvicted(t, f, into, 128*mebibyte, 256*mebibyte) })
		}
	}
	// The runtime writes it, and no counter of the pod tells; the other pod seems to hold more.
	t.Run("log of who held nothing", func(t *testing.T) {
		theWriterIsEvicted(t, filesystems{kind: "xfs"}, intoLog, 32*mebibyte, 0)
	})
	// Whose file has no name any more: no walk finds it, and the other pod seems to hold more.
	for _, into := range []string{intoLayer, intoEmptyDir("data")} {
		t.Run("unlinked"+into, func(t *testing.T) {
			theWriterIsEvicted(t, filesystems{kind: "ext4"}, into, 32*mebibyte, 0, "-unlink")
		})
	}
	// There is nothing to free for nodefs then, and the last figures of the writer are of before it
	// had more than the other.
	t.Run("images on a filesystem of their own", func(t *testing.T) {
		theWriterIsEvicted(t, filesystems{kind: "ext4", dedicated: true}, intoEmptyDir("data"), 64*mebibyte, 0)
	})
}

// theWriterIsEvicted, and not the other pod that holds so much of what it asked for.
func theWriterIsEvicted(t *testing.T, f filesystems, into string, holds, request int64, flags ...string) {
	n := newNode(t, f)
	old, writer := n.Pod("old", "data"), n.Pod("writer", "data")
	n.knows(old, map[string]any{"ephemeralStorage": map[string]int64{"requestBytes": request}})
	n.knows(writer, nil)
	idle := old.Writer("idle", intoEmptyDir("data"), 0, holds)
	n.measured(old, holds)
	n.sync(n.NodeFs)
	n.watch("nodefs.available", n.nodeLeft("nodefs.available")-80*mebibyte)
	writer.Writer("w", into, fast, 160*mebibyte, flags...)
	l := n.evicted(writer)
	if l.Signal != "nodefs.available" || l.Tier != "poll" {
		t.Errorf("signal %s by %s", l.Signal, l.Tier)
	}
	n.nobodyElse(1, idle)
}

// No counter tells who reserves space, and the pod has too many files to be seen in no time.
func TestWhoReservesTheDiskIsEvicted(t *testing.T) {
	n := newNode(t, filesystems{kind: "ext4"})
	old, database := n.Pod("old", "data"), n.Pod("database", "data")
	n.knows(old, nil)
	n.knows(database, nil)
	idle := old.Writer("idle", intoEmptyDir("data"), 0, 64*mebibyte)
	database.Litterer("l", "/data/many", 0, 20_000)
	database.Writer("w", intoEmptyDir("data"), 0, 160*mebibyte, "-reserve", "-after", "/data/now")
	n.measured(old, 64*mebibyte)
	n.await("figures of all files", func() bool {
		table, err := workload.LoadDisk(n.file("disk.json"), 0)
		if err != nil {
			return false
		}
		e := table.Entry(database.UID)
		return e != nil && e.Inodes != nil && e.Inodes.LocalVolumes != nil && *e.Inodes.LocalVolumes >= 20_000
	})
	time.Sleep(12 * time.Second) // it counts as one that grows, and its tree rests then
	n.watch("nodefs.available", n.nodeLeft("nodefs.available")-120*mebibyte)
	must(t, os.WriteFile(filepath.Join(database.EmptyDir("data"), "now"), nil, 0o600))
	n.evicted(database)
	n.nobodyElse(1, idle)
}

// Logs on a filesystem of their own free nothing on nodefs, however many there are.
func TestLogsElsewhereKillNobodyForNodefs(t *testing.T) {
	n := newNode(t, filesystems{kind: "ext4", logs: true})
	logger, writer := n.Pod("logger", "data"), n.Pod("writer", "data")
	n.knows(logger, nil)
	n.knows(writer, nil)
	logs := logger.Writer("logs", intoLog, 0, 200*mebibyte)
	n.measured(logger, 200*mebibyte)
	n.sync(n.NodeFs)
	n.watch("nodefs.available", n.nodeLeft("nodefs.available")-80*mebibyte)
	writer.Writer("w", intoEmptyDir("data"), fast, 160*mebibyte)
	n.evicted(writer)
	n.nobodyElse(1, logs)
}

// The agent dies, or is asked to end, while the files of the pod that it evicted are still there:
// the next one waits for them as well.
func TestNobodyFollowsAVictimOfAFormerAgent(t *testing.T) {
	for name, end := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "asked to end": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, filesystems{kind: "ext4"})
			old, writer := n.Pod("old", "data"), n.Pod("writer", "data")
			n.knows(old, nil)
			n.knows(writer, nil)
			writer.keeps.Store(true)
			idle := old.Writer("idle", intoEmptyDir("data"), 0, 32*mebibyte)
			n.measured(old, 32*mebibyte)
			n.sync(n.NodeFs)
			threshold := n.nodeLeft("nodefs.available") - 80*mebibyte
			agent := n.watch("nodefs.available", threshold)
			writer.Writer("w", intoEmptyDir("data"), fast, 160*mebibyte)
			n.killed(writer)
			n.ended(writer)
			must(t, agent.Process.Signal(end))
			_ = agent.Wait()
			n.agents-- // the journal is the same
			n.watch("nodefs.available", threshold)
			n.await("the second start", func() bool { return n.count(record.KindStart) == 2 })
			time.Sleep(5 * time.Second) // the next one died within 4
			n.nobodyElse(1, idle)
			must(t, os.RemoveAll(writer.EmptyDir("")))
			n.nobodyElse(1, idle)
		})
	}
}

func TestWhoLittersIsEvicted(t *testing.T) {
	n := newNode(t, filesystems{kind: "ext4"})
	old, litterer := n.Pod("old", "data"), n.Pod("litterer", "data")
	idle := old.Writer("idle", intoEmptyDir("data"), 0, 128*mebibyte)
	n.measured(old, 128*mebibyte)
	n.watch("nodefs.inodesFree", n.nodeLeft("nodefs.inodesFree")-5000)
	litterer.Litterer("l", "/data/litter", 0, 20_000)
	if l := n.evicted(litterer); l.Signal != "nodefs.inodesFree" {
		t.Errorf("signal %s", l.Signal)
	}
	n.nobodyElse(1, idle)
}

// Unused images, or a dead container's data, are enough: nobody dies.
func TestNobodyDiesWhileReclaimIsEnough(t *testing.T) {
	for name, hoard := range map[string]func(*node){
		"unused images": func(n *node) {
			n.Image("docker.io/library/unused:1", 96)
			looks := n.Pod("looks")
			for _, name := range []string{"once", "twice"} { // the disk process has seen it: it is of age
				n.asksRuntime(looks, name)
			}
		},
		"a dead container's layer": func(n *node) {
			ended := n.Pod("ended")
			ended.RunToEnd("job", 96*mebibyte)
			n.await("the pod's end", func() bool { return !n.HasCgroup(ended.UID) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, filesystems{kind: "ext4"})
			writer := n.Pod("writer", "data")
			n.measured(writer, 0)
			hoard(n)
			n.sync(n.NodeFs)
			n.watch("nodefs.available", n.nodeLeft("nodefs.available")-32*mebibyte)
			w := writer.Writer("w", intoEmptyDir("data"), 0, 64*mebibyte)
			n.await("a reclaim", func() bool { return n.count(record.KindReclaim) > 0 })
			l := n.lines(record.KindReclaim)[0]
			t.Logf("%+v", l.Reclaim)
			if l.Reclaim == nil || l.Reclaim.FreedBytes == nil || *l.Reclaim.FreedBytes < 64*mebibyte {
				t.Errorf("reclaim %+v, want more than 64 MiB freed", l.Reclaim)
			}
			n.nobodyElse(0, w)
		})
	}
}

// A pod above a limit of its own is evicted with the kubelet's words, whoever holds most.
func TestWhoIsAboveALimitIsEvicted(t *testing.T) {
	const limit = 64 * mebibyte
	container := func(name string, bytes int64) map[string]any {
		return map[string]any{"name": name, "ephemeralStorageLimitBytes": bytes}
	}
	// What two containers may use together is the pod's limit, and is not passed here by one.
	ofOne := map[string]any{
		"ephemeralStorage": map[string]any{"limitBytes": 4 * limit},
		"containers":       []any{container("w", limit), container("other", 3*limit)},
	}
	const saysOne = `Container w exceeded its local ephemeral storage limit "64Mi". `
	for name, tc := range map[string]struct {
		knows             map[string]any
		into, signal, say string
	}{
		"an emptyDir": {
			map[string]any{"volumes": []any{map[string]any{"name": "data", "sizeLimitBytes": limit}}},
			intoEmptyDir("data"), "emptydirfs.limit", `Usage of EmptyDir volume "data" exceeds the limit "64Mi". `,
		},
		// emptyDirs count for the pod and for no container.
		"a pod": {
			map[string]any{"ephemeralStorage": map[string]any{"limitBytes": limit}, "containers": []any{container("w", limit)}},
			intoEmptyDir("data"), "ephemeralpodfs.limit", "Pod ephemeral local storage usage exceeds the total limit of containers 64Mi. ",
		},
		"a container by its layer": {ofOne, intoLayer, "ephemeralcontainerfs.limit", saysOne},
		"a container by its log":   {ofOne, intoLog, "ephemeralcontainerfs.limit", saysOne},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, filesystems{kind: "ext4"})
			large, writer := n.Pod("large", "data"), n.Pod("writer", "data")
			n.knows(large, nil)
			n.knows(writer, tc.knows)
			bystander := large.Writer("b", intoEmptyDir("data"), 0, 2*limit)
			n.measured(large, 2*limit)
			n.measured(writer, 0)
			n.watch("nodefs.available", mebibyte) // never
			writer.Writer("w", tc.into, 50_000_000, 3*limit)
			l := n.evicted(writer)
			if l.Signal != tc.signal || l.Message != tc.say {
				t.Errorf("signal %s, message %q, want %s, %q", l.Signal, l.Message, tc.signal, tc.say)
			}
			if o := l.Observed; o == nil || o.Capacity != limit || o.Available >= 0 {
				t.Errorf("observed %+v, want more than the limit of %d", o, limit)
			}
			n.nobodyElse(1, bystander)
		})
	}
}

// A runtime that hangs or is gone is an alarm; figures and kills don't need it.
func TestRuntimeThatIsGoneIsAnAlarm(t *testing.T) {
	for name, lose := range map[string]func(*node) (find func()){
		"hangs":   func(n *node) func() { n.freeze(); return n.thaw },
		"stopped": func(n *node) func() { n.stop(); return n.start },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, filesystems{kind: "ext4"})
			old, writer := n.Pod("old", "data"), n.Pod("writer", "data")
			old.Writer("idle", intoEmptyDir("data"), 0, 32*mebibyte)
			writer.Run("w", writerImage, "fill", "-path", intoEmptyDir("data"), "-rate", "20000000", "-total", fmt.Sprint(192*mebibyte), "-after", "/data/go")
			n.measured(old, 32*mebibyte)
			n.measured(writer, 0)
			find := lose(n)
			n.watch("nodefs.available", n.nodeLeft("nodefs.available")-32*mebibyte)
			must(t, os.WriteFile(filepath.Join(writer.EmptyDir("data"), "go"), nil, 0o600))
			n.killed(writer)
			find()
			n.ended(writer)
			said := strings.Join(n.degraded(), "\n")
			if !strings.Contains(said, "reclaim") {
				t.Errorf("no alarm of the reclaim that failed:\n%s", said)
			}
			if k := n.count(record.KindKill); k != 1 {
				t.Errorf("%d kills, want 1", k)
			}
		})
	}
}

// Without the disk process nobody is evicted for a disk, and that is said.
func TestWithoutTheDiskProcessNobodyDies(t *testing.T) {
	n := newNode(t, filesystems{kind: "ext4"})
	writer := n.Pod("writer", "data")
	n.measured(writer, 0)
	n.end(n.disk)
	n.watch("nodefs.available", n.nodeLeft("nodefs.available")-32*mebibyte)
	w := writer.Writer("w", intoEmptyDir("data"), 0, 96*mebibyte)
	n.await("an alarm", func() bool { return len(n.degraded()) > 0 })
	n.nobodyElse(0, w)
	t.Log(fmt.Sprint(n.degraded()))
}

// The writer's layer lies where nobody looks, and no runtime tells: nobody dies in its place, and it
// is named. It is evicted when somebody looks there.
func TestWhoCantBeMeasuredIsNamed(t *testing.T) {
	n := newNode(t, filesystems{kind: "ext4"})
	n.end(n.disk)
	files, unit := filepath.Join(n.NodeFs, "unit"), n.Root+"/unit"
	must(t, os.Mkdir(files, 0o755))
	must(t, os.WriteFile(filepath.Join(files, "old"), make([]byte, 64*mebibyte), 0o600))
	idle := n.sleeps(unit)
	good := n.diskConfig() + fmt.Sprintf("diskDirectories: {%q: [%q]}\n", unit, files)
	astray := strings.NewReplacer(n.Socket, n.file("no-socket"), n.containerdDir(), n.KubeletDir).Replace(good)
	must(t, os.WriteFile(n.file("disk.yaml"), []byte(astray), 0o600))
	n.disk = n.run("disk", "--config", n.file("disk.yaml"))
	writer := n.Pod("writer", "data")
	n.knows(writer, nil)
	n.sync(n.NodeFs)
	n.watch("nodefs.available", n.nodeLeft("nodefs.available")-64*mebibyte)
	w := writer.Writer("w", intoLayer, fast, 128*mebibyte)
	n.await("refusal", func() bool { return n.count(record.KindEviction) > 0 })
	l := n.lines(record.KindEviction)[0]
	n.told(l)
	if want := string(decide.ReasonUnmeasured) + ": " + namespace + "/writer, " + writer.Cgroup; l.Outcome != record.OutcomeRefused || l.Reason != want {
		t.Errorf("%s %q, want a refusal: %q", l.Outcome, l.Reason, want)
	}
	n.nobodyElse(0, w)

	n.end(n.disk)
	must(t, os.WriteFile(n.file("disk.yaml"), []byte(good), 0o600))
	n.disk = n.run("disk", "--config", n.file("disk.yaml"))
	n.killed(writer)
	n.ended(writer)
	if err := idle.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("who did not write: %v", err)
	}
}
