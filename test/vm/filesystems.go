package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/ebpf-evict/ebpf-evict/test/vm/guest"
)

// filesystemModules are those for ext4, xfs and btrfs on loop devices, with quotas, for FUSE and
// overlays, and before each what it stands on, as Debian's kernels name their files; what one has
// built in has none.
var filesystemModules = []string{
	"loop.ko", "mbcache.ko", "crc16.ko", "jbd2.ko", "ext4.ko", "crc32c_generic.ko", "libcrc32c.ko", "xfs.ko",
	"quota_tree.ko", "quota_v2.ko", "fuse.ko", "overlay.ko",
	"libblake2b.ko", "blake2b_generic.ko", "zstd_compress.ko", "xor.ko", "raid6_pq.ko", "btrfs.ko",
}

// modulesBeside are the modules that lie in the cache with a kernel's image.
func modulesBeside(image string) (files []string) {
	for _, name := range filesystemModules {
		file := filepath.Join(filepath.Dir(image), name)
		for _, f := range []string{file, file + guest.CompressedModule} {
			if _, err := os.Stat(f); err == nil {
				files = append(files, f)
			}
		}
	}
	return files
}

// addFilesystems lets the tests make and mount filesystems, with this machine's mkfs, and be told
// that they can.
func addFilesystems(ctx context.Context, archive *initramfs, manifest *guest.Manifest, kernel string) error {
	modules := modulesBeside(kernel)
	if len(modules) == 0 {
		return fmt.Errorf("the package of %s has no modules", filepath.Base(kernel))
	}
	for _, file := range modules {
		to := path.Join("/modules", filepath.Base(file))
		archive.file(to, file)
		manifest.Modules = append(manifest.Modules, to)
	}
	for _, name := range []string{"mkfs.ext4", "mkfs.xfs", "mkfs.btrfs"} {
		if err := archive.program(ctx, name); err != nil {
			return err
		}
	}
	manifest.Env = append(manifest.Env, "EBPF_EVICT_FILESYSTEMS=1")
	return nil
}

// program adds one of this machine's system programs to /bin, and the libraries that it is
// linked with where it looks for them.
func (a *initramfs) program(ctx context.Context, name string) error {
	file, err := exec.LookPath(name)
	if err != nil {
		file = path.Join("/usr/sbin", name) // not in a user's PATH
	}
	libraries, err := output(ctx, "ldd", file)
	if err != nil {
		return fmt.Errorf("pack %s (scripts/deps.sh installs it): %w", name, err)
	}
	for _, word := range strings.Fields(libraries) {
		if path.IsAbs(word) && !a.dirs[word] {
			a.dirs[word] = true // once
			a.file(word, word)
		}
	}
	a.file(path.Join("/bin", name), file)
	return nil
}
