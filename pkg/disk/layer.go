package disk

import (
	"bufio"
	"bytes"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// layers finds writable layers by what the kernel says of a container's root mount: the same
// for containerd, CRI-O, docker and podman, and also while the runtime hangs.
type layers struct {
	procfs string
	// stores are the runtimes' directories. A layer elsewhere is not believed: who may mount
	// in a namespace of their own can name any directory.
	stores []string
	// docker is docker's directory of containers, with their logs.
	docker string
}

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

// of returns the layer of a container, by one of its processes; nil when its root is no
// overlay of a store. known is false when the process can't tell.
func (l layers) of(id string, pid int) (p *part, known bool) {
	data, err := os.ReadFile(filepath.Join(l.procfs, strconv.Itoa(pid), "mountinfo"))
	if err != nil || len(data) == 0 {
		return nil, false
	}
	upper := upperDir(data)
	for _, store := range l.stores {
		if rel, ok := strings.CutPrefix(upper, store+"/"); ok && filepath.IsLocal(rel) {
			return &part{place: place{store, rel}, kind: layer, name: id}, true
		}
	}
	return nil, upper == ""
}

// upperDir is the upper directory of the overlay that is mounted at "/"; "" when none is.
//
//	1 0 0:50 / / rw,relatime - overlay overlay rw,lowerdir=/a:/b,upperdir=/c/fs,workdir=/c/work
func upperDir(mountinfo []byte) string {
	for lines := bufio.NewScanner(bytes.NewReader(mountinfo)); lines.Scan(); {
		mount, super, _ := strings.Cut(lines.Text(), " - ")
		fields, of := strings.Fields(mount), strings.Fields(super)
		if len(fields) < 5 || fields[4] != "/" || len(of) < 3 || of[0] != "overlay" {
			continue
		}
		for option := range strings.SplitSeq(of[2], ",") {
			if dir, ok := strings.CutPrefix(option, "upperdir="); ok {
				return unescape(dir)
			}
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
func (l layers) dockerLogs(id string) *part {
	p := &part{place: place{l.docker, id}, kind: containerLogs}
	if _, err := p.directories(); err != nil {
		return nil
	}
	return p
}
