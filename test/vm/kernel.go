package main

import (
	"archive/tar"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ebpf-evict/ebpf-evict/test/vm/guest"
)

// source says where a kernel comes from: the newest of its series in these Debian suites.
type source struct {
	name   string
	series string // major.minor; empty for any
	suites []string
	// cx16 says that the kernel needs an emulated CPU with cmpxchg16b: without it
	// kmalloc_nolock (mm/slub.c, since 6.18) returns nothing, and so bpf_timer_init is out
	// of memory (seen on 7.3).
	cx16 bool
}

const newest = "newest"

// sources are in the order of the releases. Security and backports suites keep the
// series that they have; the newest moves.
var sources = []source{
	{name: "5.10", series: "5.10", suites: []string{"bullseye-security"}},
	{name: "6.1", series: "6.1", suites: []string{"bookworm"}},
	{name: "6.12", series: "6.12", suites: []string{"bookworm-backports"}},
	{name: "6.18", series: "6.18", suites: []string{"trixie-backports"}, cx16: true},
	{name: newest, suites: []string{"trixie-backports", "sid"}, cx16: true},
}

// newestAge is how long the newest kernel counts as such before the archive is asked again.
const newestAge = 7 * 24 * time.Hour

// checksums is the cache's record of the image that was unpacked, as sha256sum writes it.
const checksums = "SHA256SUMS"

func findSource(name string) (source, error) {
	i := slices.IndexFunc(sources, func(s source) bool { return s.name == name })
	if i < 0 {
		return source{}, fmt.Errorf("kernel %q: want %s", name, kernelNames())
	}
	return sources[i], nil
}

// kernelNames lists the names for a reader: "5.10, 6.1 or newest".
func kernelNames() string {
	var names []string
	for _, s := range sources {
		names = append(names, s.name)
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

// fetchKernel returns the path of the kernel's image in the user's cache, where its
// checksum is verified, with those modules beside it that the package has. What is not there
// is downloaded: apt verifies the archive's signature on the index and the index's checksum of
// the package.
func fetchKernel(ctx context.Context, src source, withModules bool) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "ebpf-evict", "vm", src.name)
	cached, age, err := cachedKernel(dir)
	switch {
	case err != nil && !errors.Is(err, os.ErrNotExist):
		fmt.Printf("the cached kernel is not used: %v\n", err)
	case err == nil && withModules && !hasModules(dir):
	case err == nil && (src.name != newest || age < newestAge):
		return cached, nil
	}

	image, err := downloadKernel(ctx, src, dir)
	if err != nil && cached != "" {
		fmt.Printf("the newest kernel of %s ago is used: %v\n", age.Round(time.Hour), err)
		return cached, nil
	}
	return image, err
}

// cachedKernel returns the image that dir's checksum file names first and how old it is.
func cachedKernel(dir string) (image string, age time.Duration, err error) {
	sums := filepath.Join(dir, checksums)
	info, err := os.Stat(sums)
	if err != nil {
		return "", 0, err
	}
	text, err := os.ReadFile(sums)
	if err != nil {
		return "", 0, err
	}
	for line := range strings.Lines(string(text)) {
		want, name, ok := strings.Cut(strings.TrimSpace(line), "  ")
		if !ok {
			break
		}
		file := filepath.Join(dir, filepath.Base(name))
		got, err := checksum(file)
		if err != nil {
			return "", 0, err
		}
		if got != want {
			return "", 0, fmt.Errorf("%s has checksum %s, want %s", file, got, want)
		}
		image = cmp.Or(image, file)
	}
	if image == "" {
		return "", 0, fmt.Errorf("parse %s: want a checksum and name a line", sums)
	}
	return image, time.Since(info.ModTime()), nil
}

// modulesList is the cache's record of the modules that were looked for in the packages.
const modulesList = "modules"

func hasModules(dir string) bool {
	list, err := os.ReadFile(filepath.Join(dir, modulesList))
	return err == nil && string(list) == strings.Join(filesystemModules, "\n")
}

func checksum(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	return fmt.Sprintf("%x", hash.Sum(nil)), nil
}

// downloadKernel puts the image into dir, its checksum beside it, and what was there away.
func downloadKernel(ctx context.Context, src source, dir string) (string, error) {
	fmt.Printf("fetching Debian's kernel %s (%s) by apt\n", src.name, strings.Join(src.suites, ", "))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	apt, err := newPrivateApt(ctx, dir, src.suites)
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(apt.dir) //nolint:errcheck // a leftover only costs disk space
	packages, err := apt.packages(ctx, "linux-")
	if err != nil {
		return "", err
	}
	pkg, version, ok := newestKernel(packages, src.series)
	if !ok {
		return "", fmt.Errorf("no kernel %s in %s", src.name, strings.Join(src.suites, ", "))
	}
	image := filepath.Join(dir, "vmlinuz-"+version)
	old, err := filepath.Glob(filepath.Join(dir, "vmlinuz-*"))
	if err != nil {
		return "", err
	}
	old = append(old, modulesBeside(image)...)
	files, err := unpackKernel(ctx, apt, image, pkg, modulesPackage(packages, version))
	if err != nil {
		return "", err
	}
	if err := writeChecksums(files); err != nil {
		return "", err
	}
	if err := writeWhole(filepath.Join(dir, modulesList), strings.NewReader(strings.Join(filesystemModules, "\n"))); err != nil {
		return "", err
	}
	for _, name := range old {
		if !slices.Contains(files, name) {
			_ = os.Remove(name) // a leftover only costs disk space
		}
	}
	return image, nil
}

func writeChecksums(files []string) error {
	var lines strings.Builder
	for _, file := range files {
		sum, err := checksum(file)
		if err != nil {
			return err
		}
		lines.WriteString(sum + "  " + filepath.Base(file) + "\n")
	}
	return writeWhole(filepath.Join(filepath.Dir(files[0]), checksums), strings.NewReader(lines.String()))
}

// kernelName matches the packages that hold an image. The cloud flavour has no drivers
// for real hardware and a quarter of the size. Since 6.19 linux-image is empty and
// linux-binary, which older kernels don't have, holds the image.
var kernelName = regexp.MustCompile(`^linux-(image|binary)-((\d+\.\d+)\.\S*-cloud-amd64)$`)

// newestKernel returns the package that holds the series' newest image, and the
// image's version; any series where that is empty.
func newestKernel(packages []string, series string) (pkg, version string, ok bool) {
	var binary bool
	for _, name := range packages {
		m := kernelName.FindStringSubmatch(name)
		if m == nil || (series != "" && m[3] != series) {
			continue
		}
		order := compareVersions(m[2], version)
		if order > 0 || (order == 0 && !binary) {
			pkg, version, binary = name, m[2], m[1] == "binary"
		}
	}
	return pkg, version, pkg != ""
}

var versionNumber = regexp.MustCompile(`\d+`)

// compareVersions compares by the numbers in the versions, from the left.
func compareVersions(a, b string) int {
	return slices.CompareFunc(versionNumber.FindAllString(a, -1), versionNumber.FindAllString(b, -1),
		func(a, b string) int {
			x, _ := strconv.Atoi(a) // digits; one too large for an int counts as the largest
			y, _ := strconv.Atoi(b)
			return cmp.Compare(x, y)
		})
}

// modulesPackage is the one that holds the modules since 7.2; "" where they are with the image.
func modulesPackage(packages []string, version string) string {
	if name := "linux-modules-" + version; slices.Contains(packages, name) {
		return name
	}
	return ""
}

// unpackKernel downloads the packages and returns the files of theirs that it has written: the
// image, and beside it modules.
func unpackKernel(ctx context.Context, apt privateApt, image string, packages ...string) ([]string, error) {
	var files []string
	for _, pkg := range packages {
		if pkg == "" {
			continue
		}
		deb, err := apt.download(ctx, pkg)
		if err != nil {
			return nil, err
		}
		found, err := extractKernel(ctx, deb, image)
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	at := slices.Index(files, image)
	if at < 0 {
		return nil, fmt.Errorf("%s holds no vmlinuz", packages[0])
	}
	files[0], files[at] = files[at], files[0] // the cache names it first
	return files, nil
}

// extractKernel writes the package's kernel image, boot/vmlinuz-VERSION, in later packages
// usr/lib/modules/VERSION/vmlinuz, and beside it the modules that it has of filesystemModules.
func extractKernel(ctx context.Context, deb, image string) (files []string, err error) {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	defer func() {
		// Read to the end, or dpkg-deb calls the closed pipe an error.
		_, copyErr := io.Copy(io.Discard, stdout)
		err = errors.Join(err, copyErr, cmd.Wait())
	}()

	for members := tar.NewReader(stdout); ; {
		member, err := members.Next()
		switch {
		case err == io.EOF:
			return files, nil
		case err != nil:
			return nil, fmt.Errorf("read %s: %w", filepath.Base(deb), err)
		case member.Typeflag != tar.TypeReg:
			continue
		}
		to := ""
		switch name := path.Base(member.Name); {
		case name == "vmlinuz", strings.HasPrefix(name, "vmlinuz-"):
			to = image
		case slices.Contains(filesystemModules, strings.TrimSuffix(name, guest.CompressedModule)):
			to = filepath.Join(filepath.Dir(image), name)
		default:
			continue
		}
		if err := writeWhole(to, members); err != nil {
			return nil, err
		}
		files = append(files, to)
	}
}

// writeWhole writes through a temporary name: an interrupted run leaves no half file.
func writeWhole(name string, body io.Reader) error {
	f, err := os.CreateTemp(filepath.Dir(name), "partial-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // gone once renamed
	if _, err := io.Copy(f, body); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", name, err), f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
