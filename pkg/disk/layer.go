package disk

import (
	"bytes"
	"io"
	"iter"
	"math"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// layers finds writable layers by what the kernel says of a container's root mount: the same
// for containerd, CRI-O, docker and podman, and also while the runtime hangs. Who may mount in a
// namespace of their own can name any directory in an overlay's options: one is believed that the
// host has mounted too, which is where runtimes mount it.
type layers struct {
	procfs string
	// stores are the runtimes' directories. A layer elsewhere is not believed.
	stores []string
	// docker is docker's directory of containers, with their logs.
	docker string
	// mounted are the host's overlays, nil when they are to be read anew.
	mounted map[superblock]bool
}

// superblock is an overlay's: its device number, and its options, for a number is given to another
// when the overlay is gone.
type superblock struct{ device, options string }

// containerID is the id in the name of a container's cgroup: cri-containerd-ID.scope,
// crio-ID.scope, docker-ID.scope, libpod-ID.scope or ID alone; "" when there is none.
func containerID(cgroup string) string {
	name := strings.TrimSuffix(path.Base(cgroup), ".scope")
	id := name[strings.LastIndexByte(name, '-')+1:]
	if len(id) != 64 || strings.Trim(id, "0123456789abcdef") != "" {
		return ""
	}
	return id
}

// of returns the layer of a container, by one of its processes; nil when the process can't tell: its
// root is a volume, an overlay of its own, or still the host's.
func (l *layers) of(id string, pid int) *part {
	const most = 1 << 20 // of a table that the container makes as long as it likes; its root comes first
	for at, super := range l.overlays(strconv.Itoa(pid), most) {
		if at != "/" || !l.isMounted(super) {
			continue
		}
		upper := super.upperDir()
		for _, store := range l.stores {
			if rel, ok := strings.CutPrefix(upper, store+"/"); ok && filepath.IsLocal(rel) {
				return &part{place: place{store, rel}, kind: layer, name: id}
			}
		}
	}
	return nil
}

// isMounted reports whether the host has an overlay mounted, or the namespace that we are in, where
// no container mounts either.
func (l *layers) isMounted(super superblock) bool {
	if l.mounted == nil {
		l.mounted = map[superblock]bool{}
		for _, who := range []string{"1", "self"} {
			for _, super := range l.overlays(who, math.MaxInt64) {
				l.mounted[super] = true
			}
		}
	}
	return l.mounted[super]
}

// overlays are those that a process sees, with where they are mounted.
//
//	1 0 0:50 / / rw,relatime - overlay overlay rw,lowerdir=/a:/b,upperdir=/c/fs,workdir=/c/work
func (l *layers) overlays(who string, most int64) iter.Seq2[string, superblock] {
	return func(yield func(string, superblock) bool) {
		f, err := os.Open(filepath.Join(l.procfs, who, "mountinfo"))
		if err != nil {
			return
		}
		defer f.Close()
		data, _ := io.ReadAll(io.LimitReader(f, most))
		for line := range bytes.Lines(data) {
			mount, super, _ := bytes.Cut(line, []byte(" - "))
			if !bytes.HasPrefix(super, []byte("overlay ")) {
				continue
			}
			fields, of := strings.Fields(string(mount)), strings.Fields(string(super))
			if len(fields) > 4 && len(of) > 2 && !yield(fields[4], superblock{fields[2], of[2]}) {
				return
			}
		}
	}
}

// upperDir is the upper directory; "" when there is none.
func (s superblock) upperDir() string {
	for option := range strings.SplitSeq(s.options, ",") {
		if dir, ok := strings.CutPrefix(option, "upperdir="); ok {
			return unescape(dir)
		}
	}
	return ""
}

// unescape undoes the octal escapes of mountinfo: \040 for a blank.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// dockerLogs are the log files that docker keeps of a container, nil when it is not docker's.
func (l *layers) dockerLogs(id string) *part {
	p := &part{place: place{l.docker, id}, kind: containerLogs}
	if _, err := p.directories(); err != nil {
		return nil
	}
	return p
}
