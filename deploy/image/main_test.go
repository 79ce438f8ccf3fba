package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// build compiles a small program, static or not.
func build(t *testing.T, arch string) string {
	t.Helper()
	dir := t.TempDir()
	source, binary := filepath.Join(dir, "main.go"), filepath.Join(dir, arch)
	if err := os.WriteFile(source, []byte("package main\nfunc main() {}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", binary, source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return binary
}

func packed(t *testing.T, args ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "image.tar")
	if err := pack(out, "localhost/ebpf-evict:v1", time.Unix(1700000000, 0).UTC(), args); err != nil {
		t.Fatal(err)
	}
	return out
}

// unpack opens an archive as whoever imports it would.
func unpack(t *testing.T, archive string) v1.ImageIndex {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	dir := t.TempDir()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, h.Name)
		data, err := io.ReadAll(r)
		if err := errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	return index
}

// onlyFile is the one file of an image.
func onlyFile(t *testing.T, image v1.Image) []byte {
	t.Helper()
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	files, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(files)
	h, err := r.Next()
	if err != nil || h.Name != program || h.Mode != 0o755 || h.Uid != 0 {
		t.Fatalf("%+v, %v", h, err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if h, err := r.Next(); err != io.EOF {
		t.Fatalf("a second file: %+v, %v", h, err)
	}
	return data
}

func TestArchiveHoldsTheBinaryOfEachArchitecture(t *testing.T) {
	binaries := map[string]string{"amd64": build(t, "amd64"), "arm64": build(t, "arm64")}
	outer := unpack(t, packed(t, "amd64="+binaries["amd64"], "arm64="+binaries["arm64"]))
	if err := validate.Index(outer); err != nil {
		t.Fatal(err)
	}
	manifest, err := outer.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 {
		t.Fatalf("%+v, %v", manifest, err)
	}
	if a := manifest.Manifests[0].Annotations; a["io.containerd.image.name"] != "localhost/ebpf-evict:v1" || a["org.opencontainers.image.ref.name"] != "v1" {
		t.Errorf("names %v", a)
	}
	all, err := outer.ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err = all.IndexManifest()
	if err != nil || len(manifest.Manifests) != len(binaries) {
		t.Fatalf("%+v, %v", manifest, err)
	}
	for _, m := range manifest.Manifests {
		image, err := all.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		arch := m.Platform.Architecture
		config, err := image.ConfigFile()
		if err != nil || config.Architecture != arch || config.OS != "linux" || config.Config.Entrypoint[0] != "/ebpf-evict" || config.Created.Unix() != 1700000000 {
			t.Errorf("%s: config %+v, %v", arch, config, err)
		}
		data := onlyFile(t, image)
		want, err := os.ReadFile(binaries[arch])
		if err != nil || !bytes.Equal(data, want) {
			t.Errorf("%s: another file than the binary (%v)", arch, err)
		}
		if f, err := elf.NewFile(bytes.NewReader(data)); err != nil || f.Machine != machines[arch] {
			t.Errorf("%s: %v, %v", arch, f, err)
		}
	}
}

func TestTheSameBinariesGiveTheSameArchive(t *testing.T) {
	arg := "amd64=" + build(t, "amd64")
	one, err := os.ReadFile(packed(t, arg))
	if err != nil {
		t.Fatal(err)
	}
	two, err := os.ReadFile(packed(t, arg))
	if err != nil || !bytes.Equal(one, two) {
		t.Errorf("they differ (%v)", err)
	}
}

func TestPackRefusesWhatWouldNotRun(t *testing.T) {
	amd64, out := build(t, "amd64"), filepath.Join(t.TempDir(), "image.tar")
	for name, c := range map[string]struct{ arg, want string }{
		"another architecture's binary": {"arm64=" + amd64, "EM_X86_64"},
		"an unknown architecture":       {"s390x=" + amd64, "want amd64 or arm64"},
		"no binary":                     {"amd64=" + out, "no such file"},
		"a script":                      {"amd64=main_test.go", "bad magic"},
		"a dynamic one":                 {runtime.GOARCH + "=/bin/sh", "dynamically"},
		"no architecture":               {amd64, "want ARCH=BINARY"},
	} {
		if err := pack(out, "x:1", time.Time{}, []string{c.arg}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(out), "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
