package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// mirrorVariable overrides the Debian mirror that apt's own sources name; the mirror of
// the security archive is taken to lie beside it, with "-security" at its end.
const mirrorVariable = "EBPF_EVICT_DEBIAN_MIRROR"

const (
	keyring        = "/usr/share/keyrings/debian-archive-keyring.gpg"
	securitySuffix = "-security"
)

// privateApt is apt with sources, lists and cache of its own, so that the machine's
// own stay as they are and no root is needed.
type privateApt struct {
	dir, config string
}

func newPrivateApt(ctx context.Context, parent string, suites []string) (_ privateApt, err error) {
	var list strings.Builder
	for _, suite := range suites {
		mirror, err := debianMirror(ctx, strings.HasSuffix(suite, securitySuffix))
		if err != nil {
			return privateApt{}, err
		}
		fmt.Fprintf(&list, "deb [arch=amd64 signed-by=%s] %s %s main\n", keyring, mirror, suite)
	}
	dir, err := os.MkdirTemp(parent, "apt-")
	if err != nil {
		return privateApt{}, err
	}
	for _, sub := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return privateApt{}, err
		}
	}
	for name, body := range map[string]string{"sources.list": list.String(), "apt.conf": aptConfig(dir)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o644); err != nil {
			return privateApt{}, err
		}
	}
	return privateApt{dir: dir, config: filepath.Join(dir, "apt.conf")}, nil
}

// aptConfig comes on top of the machine's configuration, whose proxies still count
// and whose hooks do not, nor does a leave to go without signatures. The index of a suite
// whose support has ended is signed, but out of date.
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
APT::Get::AllowUnauthenticated "false";
APT::Update::Error-Mode "any";
Acquire::AllowInsecureRepositories "false";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
`, dir)
}

// packages updates the index and returns the names in it that begin so.
func (a privateApt) packages(ctx context.Context, prefix string) ([]string, error) {
	if _, err := output(ctx, "apt-get", "-c", a.config, "-q", "update"); err != nil {
		return nil, err
	}
	names, err := output(ctx, "apt-cache", "-c", a.config, "pkgnames", prefix)
	return strings.Fields(names), err
}

// download returns the path of the downloaded package.
func (a privateApt) download(ctx context.Context, pkg string) (string, error) {
	cmd := exec.CommandContext(ctx, "apt-get", "-c", a.config, "-q", "download", pkg)
	cmd.Dir = a.dir
	if _, err := run(cmd); err != nil {
		return "", err
	}
	debs, err := filepath.Glob(filepath.Join(a.dir, pkg+"_*.deb"))
	if err != nil || len(debs) != 1 {
		return "", fmt.Errorf("apt downloaded %d packages %s, want 1", len(debs), pkg)
	}
	return debs[0], nil
}

// debianMirror is the mirror that this machine's own apt uses for its release, of the
// main or the security archive.
func debianMirror(ctx context.Context, security bool) (string, error) {
	suffix := ""
	if security {
		suffix = securitySuffix
	}
	if mirror := os.Getenv(mirrorVariable); mirror != "" {
		return mirror + suffix, nil
	}
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", err
	}
	uris, err := output(ctx, "apt-get", "-o", "Debug::NoLocking=1", "update", "--print-uris")
	if err != nil {
		return "", err
	}
	mirror, ok := findMirror(string(release), uris, suffix)
	if !ok {
		return "", fmt.Errorf("apt's sources name no Debian%s mirror: set %s to one", suffix, mirrorVariable)
	}
	return mirror, nil
}

// findMirror finds the archive of the running Debian release, its suite ending in
// suffix, in what `apt-get update --print-uris` prints, which needs no package lists:
//
//	'http://mirror/debian/dists/bookworm/InRelease' mirror_debian_dists_bookworm_InRelease 0
func findMirror(osRelease, uris, suffix string) (string, bool) {
	if !regexp.MustCompile(`(?m)^ID="?debian"?$`).MatchString(osRelease) {
		return "", false
	}
	codename := regexp.MustCompile(`(?m)^VERSION_CODENAME="?([a-z]+)"?$`).FindStringSubmatch(osRelease)
	if codename == nil {
		return "", false
	}
	mirror := regexp.MustCompile(`(?m)^'(\S+)/dists/` + codename[1] + suffix + `/InRelease'`).FindStringSubmatch(uris)
	if mirror == nil {
		return "", false
	}
	return mirror[1], true
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
