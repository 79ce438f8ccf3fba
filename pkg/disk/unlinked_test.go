package disk

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ebpf-evict/ebpf-evict/pkg/cgroupfs"
	"github.com/ebpf-evict/ebpf-evict/test/mountns"
)

// holderEnv names a directory with those of startHolder in it.
const holderEnv = "DISK_TEST_HOLDER"

const (
	inLayerMiB  = 3
	inVolumeMiB = 4 + 1 // removed, and never named
)

// holdOnRequest holds files open from the first line to the second; its root is then the overlay.
func holdOnRequest(dir string) {
	lines := bufio.NewReader(os.Stdin)
	var files []*os.File
	for _, step := range []func() error{
		func() (err error) { files, err = holdAll(dir); return err },
		func() error {
			for _, f := range files {
				_ = f.Close()
			}
			return nil
		},
	} {
		if _, err := lines.ReadString('\n'); err != nil {
			return
		}
		fmt.Println(step())
	}
	_, _ = lines.ReadString('\n')
}

func holdAll(dir string) (files []*os.File, err error) {
	open := func(name string, flags, mib int) *os.File {
		f, e := os.OpenFile(filepath.Join(dir, name), flags, 0o600)
		if e == nil && mib > 0 {
			_, e = f.Write(make([]byte, mib<<20))
		}
		err = errors.Join(err, e)
		files = append(files, f)
		return f
	}
	const make, again = os.O_RDWR | os.O_CREATE, os.O_RDWR
	remove := func(name string) { err = errors.Join(err, os.Remove(filepath.Join(dir, name))) }

	open("volume/named", make, 8)
	open("volume/named (deleted)", make, 8)
	open("volume/held", make, 4)
	open("volume/held", again, 0)
	remove("volume/held")
	open("volume", unix.O_TMPFILE|os.O_RDWR, 1)
	_ = open("volume/read", make, 2).Close()
	open("volume/read", os.O_RDONLY, 0)
	remove("volume/read")
	open("volume/linked", make, 2)
	err = errors.Join(err, os.Link(filepath.Join(dir, "volume/linked"), filepath.Join(dir, "volume/other")))
	remove("volume/linked")
	open("elsewhere/held", make, 2)
	remove("elsewhere/held")
	memory, e := unix.MemfdCreate("held", 0)
	err = errors.Join(err, e)
	_, e = unix.Write(memory, []byte("x"))
	err = errors.Join(err, e, unix.Chroot(filepath.Join(dir, "merged")))
	dir = "/"
	_ = open("held", make, inLayerMiB).Close()
	open("held", os.O_RDONLY, 0)
	remove("held")
	return files, err
}

// A removed file that is open takes its room, and no walk finds it: who fills a disk so would be
// nobody, and another be evicted.
func TestFilesWithoutANameAreWhoseTheyAre(t *testing.T) {
	mountns.Run(t, testFilesWithoutANameAreWhoseTheyAre)
}

func testFilesWithoutANameAreWhoseTheyAre(t *testing.T) {
	fs, group, base, step := startHolder(t)
	v := newVisitor(monotonicNs)
	v.open, v.procfs = fs.OpenToRead, "/proc"
	volume := &part{place: place{base, "volume"}, kind: emptyDir}
	p := &part{place: place{group, ""}, kind: unlinked, beside: []*part{volume, {place: place{base, "merged"}, kind: layer}}}
	want := func(when string, inLayers, inVolumes Tally) {
		t.Helper()
		out := conclude(v, p)
		if out.err != nil || out.figure == nil {
			t.Fatalf("%s: %+v", when, out)
		}
		layers, volumes := out.figure.split()
		if !about(layers.Tally, inLayers) || !about(volumes.Tally, inVolumes) {
			t.Errorf("%s: %+v in layers and %+v in volumes, want %+v and %+v", when, layers.Tally, volumes.Tally, inLayers, inVolumes)
		}
	}
	layers, volumes := Tally{inLayerMiB << 20, 1}, Tally{inVolumeMiB << 20, 2}
	want("before", Tally{}, Tally{})
	step()
	want("held", layers, volumes)
	volume.quota.project = project{id: 7}
	want("what a quota counts is in its figure", layers, Tally{})
	volume.quota.project = project{}
	p.beside = nil
	want("a unit without volumes", layers, Tally{})
	p.beside = []*part{{place: place{base + "/volume", "."}, kind: directory}}
	v.nodefs = base
	want("a directory", layers, volumes)
	v.nodefs = base + "/elsewhere"
	want("a directory on another filesystem than nodefs", layers, Tally{})
	p.beside = []*part{volume}
	step()
	want("closed", Tally{}, Tally{})
	if v.room.left != maxLinks {
		t.Errorf("%d of %d inodes are still remembered", maxLinks-v.room.left, maxLinks)
	}
	p.base = group + "-gone"
	want("a cgroup that is gone", Tally{}, Tally{})
}

// startHolder starts a process that holds files open, in a cgroup.
func startHolder(t *testing.T) (fs *cgroupfs.FS, group, base string, step func()) {
	t.Helper()
	base = mountImage(t, "ext4", "", []string{"mkfs.ext4", "-q", "-F"})
	for _, dir := range []string{"volume", "lower", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(base, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	mount(t, "overlay", base+"/merged", "overlay", 0, "lowerdir="+base+"/lower,upperdir="+base+"/upper,workdir="+base+"/work")
	mount(t, "tmpfs", base+"/elsewhere", "tmpfs", 0, "size=8m")
	fs, err := cgroupfs.New("/sys/fs/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	group = "/disk-test-" + strconv.Itoa(os.Getpid())
	return fs, group, base, startWriter(t, fs, group, holderEnv+"="+base)
}

// about: a filesystem adds blocks of its own.
func about(got, want Tally) bool {
	return got.Inodes == want.Inodes && got.Bytes >= want.Bytes && got.Bytes <= want.Bytes+256<<10
}

// They are among the unit's figures, which limits and rankings go by.
func TestFilesWithoutANameAreInTheFigures(t *testing.T) {
	n := newNode(t)
	n.process(t, id1, "4711", n.base+"/store/layer1/fs")
	n.process(t, id2, "4712", n.base+"/store/layer2/fs")
	w := newWorker(n.Options)
	w.find()
	u := w.units[podUID]
	w.visitAll(u)
	now := monotonicNs()
	before := u.entry(nil, true, now, time.Now())
	for _, p := range u.parts {
		if p.kind == unlinked {
			p.figure = &figure{Tally: Tally{7 << 20, 5}, readNs: now, inLayers: Tally{2 << 20, 1}}
		}
	}
	after := u.entry(nil, true, now, time.Now())
	for name, tc := range map[string]struct{ before, after, more int64 }{
		"used":           {*before.EphemeralStorage.UsedBytes, *after.EphemeralStorage.UsedBytes, 7 << 20},
		"layers":         {*before.EphemeralStorage.RootfsBytes, *after.EphemeralStorage.RootfsBytes, 2 << 20},
		"volumes":        {*before.EphemeralStorage.LocalVolumesBytes, *after.EphemeralStorage.LocalVolumesBytes, 5 << 20},
		"layers' inodes": {*before.Inodes.Rootfs, *after.Inodes.Rootfs, 1},
		"all inodes":     {*before.Inodes.Rootfs + *before.Inodes.LocalVolumes, *after.Inodes.Rootfs + *after.Inodes.LocalVolumes, 5},
	} {
		if tc.after-tc.before != tc.more {
			t.Errorf("%s: %d, want %d more than %d", name, tc.after, tc.more, tc.before)
		}
	}
	if before.Unlinked != nil || after.Unlinked == nil || after.Unlinked.UsedBytes != 7<<20 || after.Unlinked.Inodes != 5 {
		t.Errorf("told as %+v, before as %+v", after.Unlinked, before.Unlinked)
	}
}

// Who wrote nothing since the last search has nothing new: at rest none is made.
func TestOnlyWhoWroteIsSearched(t *testing.T) {
	const now = 1000 * second
	nothing, held := &figure{readNs: now}, &figure{Tally: Tally{1, 1}, readNs: now}
	for name, tc := range map[string]struct {
		growth  growth
		part    part
		horizon time.Duration
		want    bool
	}{
		"never wrote":                 {part: part{foundNs: 1}, horizon: never},
		"never wrote, near a mark":    {part: part{foundNs: 1}, want: true},
		"wrote":                       {growth: growth{filledNs: 5}, part: part{foundNs: 1}, horizon: never, want: true},
		"wrote before the last":       {growth: growth{filledNs: 5}, part: part{triedNs: 6, figure: nothing}, horizon: never},
		"wrote since":                 {growth: growth{filledNs: 7}, part: part{triedNs: 6, figure: nothing}, horizon: never, want: true},
		"holds some, and may close":   {growth: growth{filledNs: 5}, part: part{triedNs: 6, figure: held}, horizon: never, want: true},
		"holds nothing, near a mark":  {growth: growth{filledNs: 5}, part: part{triedNs: 6, figure: nothing}, want: true},
		"searched a moment ago, near": {growth: growth{filledNs: 5}, part: part{triedNs: now, figure: nothing}},
	} {
		t.Run(name, func(t *testing.T) {
			tc.part.kind = unlinked
			u := &unit{growth: tc.growth, parts: []*part{&tc.part}}
			if got := len(due(map[string]*unit{"u": u}, view{nowNs: now, horizon: tc.horizon})) == 1; got != tc.want {
				t.Errorf("due: %t, want %t", got, tc.want)
			}
		})
	}
	quiet, writer := &unit{}, &unit{growth: growth{filledNs: now - 1}}
	if p := (&part{kind: unlinked}); quiet.isAwaited(p, view{nowNs: now, freshNs: now}) || !writer.isAwaited(p, view{nowNs: now, freshNs: now}) {
		t.Error("who wrote is waited for, who did not is not")
	}
	var g growth
	for i, bytes := range []int64{0, fastWrites - 1, fastWrites + 1, 2 * fastWrites, 2*fastWrites + 2} {
		g.seen(writes{bytes: bytes}, uint64(i+1))
		if want := []uint64{0, 0, 3, 3, 5}[i]; g.filledNs != want {
			t.Errorf("after %d bytes filled at %d, want %d", bytes, g.filledNs, want)
		}
	}
}
