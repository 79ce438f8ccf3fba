package ward

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// RemoveCgroups removes a cgroup with all below it from every hierarchy.
func RemoveCgroups(dir string) {
	for _, mount := range CgroupMounts() {
		var dirs []string
		_ = filepath.WalkDir(filepath.Join(mount, dir), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, d := range slices.Backward(dirs) {
			_ = os.Remove(d)
		}
	}
}

// CgroupMounts are the mount points of all hierarchies.
func CgroupMounts() []string {
	var mounts []string
	data, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 2 && strings.HasPrefix(f[2], "cgroup") {
			mounts = append(mounts, f[1])
		}
	}
	return mounts
}
