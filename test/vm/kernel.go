package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// suites says which Debian suite carries which kernel.
var suites = map[string]string{
	"6.1":  "bookworm",
	"6.12": "bookworm-backports",
}

// mirrorVariable overrides the Debian mirror that apt's own sources name.
const mirrorVariable = "EBPF_EVICT_DEBIAN_MIRROR"

const (
	// The cloud flavour: no drivers for real hardware, a quarter of the size.
	kernelPackage = "linux-image-cloud-amd64"
	keyring       = "/usr/share/keyrings/debian-archive-keyring.gpg"
)

// fetchKernel returns the path of the kernel's image in the user's cache; it is
// downloaded once. apt checks its signature and checksum.
func fetchKernel(ctx context.Context, version string) (string, error) {
	suite, ok := suites[version]
	if !ok {
		return "", fmt.Errorf("kernel %q: want 6.1 or 6.12", version)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "ebpf-evict", "vm", version)
	if images, _ := filepath.Glob(filepath.Join(dir, "vmlinuz-*")); len(images) > 0 {
		return images[len(images)-1], nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}

	fmt.Printf("fetching Debian's kernel %s (%s) by apt, once\n", version, suite)
	mirror, err := debianMirror(ctx)
	if err != nil {
		return "", err
	}
	apt, err := newPrivateApt(dir, mirror, suite)
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(apt.dir) //nolint:errcheck // a leftover only costs disk space
	deb, err := apt.downloadKernel(ctx, version)
	if err != nil {
		return "", err
	}
	return extractKernel(ctx, deb, dir)
}

// debianMirror is the mirror that this machine's own apt uses for its release.
func debianMirror(ctx context.Context) (string, error) {
	if mirror := os.Getenv(mirrorVariable); mirror != "" {
		return mirror, nil
	}
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", err
	}
	uris, err := output(ctx, "apt-get", "-o", "Debug::NoLocking=1", "update", "--print-uris")
	if err != nil {
		return "", err
	}
	mirror, ok := findMirror(string(release), uris)
	if !ok {
		return "", fmt.Errorf("apt's sources name no Debian mirror: set %s to one", mirrorVariable)
	}
	return mirror, nil
}

// findMirror finds the archive of the running Debian release in what
// `apt-get update --print-uris` prints, which needs no package lists:
//
//	'http://mirror/debian/dists/bookworm/InRelease' mirror_debian_dists_bookworm_InRelease 0
func findMirror(osRelease, uris string) (string, bool) {
	if !regexp.MustCompile(`(?m)^ID="?debian"?$`).MatchString(osRelease) {
		return "", false
	}
	codename := regexp.MustCompile(`(?m)^VERSION_CODENAME="?([a-z]+)"?$`).FindStringSubmatch(osRelease)
	if codename == nil {
		return "", false
	}
	mirror := regexp.MustCompile(`(?m)^'(\S+)/dists/` + codename[1] + `/InRelease'`).FindStringSubmatch(uris)
	if mirror == nil {
		return "", false
	}
	return mirror[1], true
}

// privateApt is apt with sources, lists and cache of its own, so that the machine's
// own stay as they are and no root is needed.
type privateApt struct {
	dir, config string
}

func newPrivateApt(parent, mirror, suite string) (privateApt, error) {
	dir, err := os.MkdirTemp(parent, "apt-")
	if err != nil {
		return privateApt{}, err
	}
	for _, sub := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return privateApt{}, err
		}
	}
	files := map[string]string{
		"sources.list": fmt.Sprintf("deb [arch=amd64 signed-by=%s] %s %s main\n", keyring, mirror, suite),
		"apt.conf":     aptConfig(dir),
	}
	for name, body := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o644); err != nil {
			return privateApt{}, err
		}
	}
	return privateApt{dir: dir, config: filepath.Join(dir, "apt.conf")}, nil
}

// aptConfig comes on top of the machine's configuration, whose proxies still count
// and whose hooks do not.
func aptConfig(dir string) string {
	return fmt.Sprintf(`#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Dir::Etc::SourceList "%[1]s/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "%[1]s/lists";
Dir::State::Status "/dev/null";
Dir::Cache "%[1]s/cache";
APT::Architecture "amd64";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
`, dir)
}

// downloadKernel returns the path of the downloaded package.
func (a privateApt) downloadKernel(ctx context.Context, version string) (string, error) {
	if _, err := output(ctx, "apt-get", "-c", a.config, "-q", "update"); err != nil {
		return "", err
	}
	meta, err := output(ctx, "apt-cache", "-c", a.config, "show", "--no-all-versions", kernelPackage)
	if err != nil {
		return "", err
	}
	image := regexp.MustCompile(`linux-image-` + regexp.QuoteMeta(version) + `[.+]\S+`).FindString(meta)
	if image == "" {
		return "", fmt.Errorf("%s depends on no kernel %s", kernelPackage, version)
	}

	cmd := exec.CommandContext(ctx, "apt-get", "-c", a.config, "-q", "download", image)
	cmd.Dir = a.dir
	if _, err := run(cmd); err != nil {
		return "", err
	}
	debs, err := filepath.Glob(filepath.Join(a.dir, image+"_*.deb"))
	if err != nil || len(debs) != 1 {
		return "", fmt.Errorf("apt downloaded %d packages %s, want 1", len(debs), image)
	}
	return debs[0], nil
}

// extractKernel copies the image out of the package into dir and returns its path.
func extractKernel(ctx context.Context, deb, dir string) (_ string, err error) {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	defer func() {
		// Read to the end, or dpkg-deb calls the closed pipe an error.
		_, copyErr := io.Copy(io.Discard, stdout)
		err = errors.Join(err, copyErr, cmd.Wait())
	}()

	for members := tar.NewReader(stdout); ; {
		member, err := members.Next()
		if err != nil {
			return "", fmt.Errorf("find vmlinuz in %s: %w", filepath.Base(deb), err)
		}
		name := path.Base(member.Name)
		if strings.HasPrefix(name, "vmlinuz-") && member.Typeflag == tar.TypeReg {
			image := filepath.Join(dir, name)
			return image, writeWhole(image, members)
		}
	}
}

// writeWhole writes through a temporary name: an interrupted run leaves no half image.
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

func output(ctx context.Context, name string, args ...string) (string, error) {
	return run(exec.CommandContext(ctx, name, args...))
}

// run returns the command's standard output; its error carries what it complained of.
func run(cmd *exec.Cmd) (string, error) {
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return "", fmt.Errorf("run %s: %w", strings.Join(cmd.Args, " "), err)
	}
	return string(out), nil
}
