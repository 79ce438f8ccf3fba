// Command image packs static binaries into one OCI archive of several architectures, without
// a container engine. The same binaries give the same archive, byte by byte.
package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// program is where the binary lies in the image.
const program = "ebpf-evict"

func main() {
	out := flag.String("o", "", "the archive to write")
	name := flag.String("name", "localhost/ebpf-evict:latest", "the image's name for whoever imports the archive")
	created := flag.Int64("created", 0, "the image's time, in seconds since 1970")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: image -o ARCHIVE [-name NAME] [-created SECONDS] ARCH=BINARY ...")
		flag.PrintDefaults()
	}
	flag.Parse()
	if *out == "" || flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := pack(*out, *name, time.Unix(*created, 0).UTC(), flag.Args()); err != nil {
		fmt.Fprintf(os.Stderr, "image: %v\n", err)
		os.Exit(1)
	}
}

// pack writes the archive at once or not at all.
func pack(out, name string, created time.Time, binaries []string) error {
	all := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arg := range binaries {
		arch, path, ok := strings.Cut(arg, "=")
		if !ok {
			return fmt.Errorf("%q: want ARCH=BINARY", arg)
		}
		image, err := imageOf(arch, path, created)
		if err != nil {
			return fmt.Errorf("%s for %s: %w", path, arch, err)
		}
		all = mutate.AppendManifests(all, mutate.IndexAddendum{
			Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	dir, err := os.MkdirTemp(filepath.Dir(out), ".image-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if _, err := layout.Write(dir, named(all, name)); err != nil {
		return err
	}
	return archive(dir, out)
}

// named is an index of the one image. containerd takes its name from the first annotation,
// others a tag from the second.
func named(image v1.ImageIndex, name string) v1.ImageIndex {
	_, tag, _ := strings.Cut(filepath.Base(name), ":")
	return mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{
		Add: image, Descriptor: v1.Descriptor{Annotations: map[string]string{
			"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag,
		}},
	})
}

func imageOf(arch, path string, created time.Time) (v1.Image, error) {
	binary, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if err := checkStatic(binary, arch); err != nil {
		return nil, err
	}
	files, err := layerTar(binary)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(
		func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files)), nil },
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching,
	)
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err = mutate.ConfigFile(image, &v1.ConfigFile{
		OS: "linux", Architecture: arch, Created: v1.Time{Time: created},
		Config: v1.Config{Entrypoint: []string{"/" + program}, Cmd: []string{"--help"}},
		RootFS: v1.RootFS{Type: "layers"},
	})
	if err != nil {
		return nil, err
	}
	return mutate.Append(image, mutate.Addendum{Layer: layer, History: v1.History{
		Created: v1.Time{Time: created}, CreatedBy: "deploy/image",
	}})
}

// machines are those of the architectures that the BPF programs are built for: little endian.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// checkStatic refuses what would not run in an image that holds nothing else.
func checkStatic(binary []byte, arch string) error {
	machine, ok := machines[arch]
	if !ok {
		return errors.New("no such architecture, want amd64 or arm64")
	}
	f, err := elf.NewFile(bytes.NewReader(binary))
	if err != nil {
		return err
	}
	if f.Machine != machine {
		return fmt.Errorf("built for %s", f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("linked dynamically (CGO_ENABLED=0 is missing)")
		}
	}
	return nil
}

// layerTar holds the binary alone, root's, from 1970.
func layerTar(binary []byte) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Name: program, Mode: 0o755, Size: int64(len(binary)), ModTime: time.Unix(0, 0), Typeflag: tar.TypeReg})
	if err == nil {
		_, err = w.Write(binary)
	}
	return b.Bytes(), errors.Join(err, w.Close())
}

// archive writes the files below dir, sorted, without their times and owners.
func archive(dir, out string) error {
	tmp := filepath.Join(dir, ".archive")
	f, err := os.Create(tmp)
	if err != nil {
		return err
	}
	w := tar.NewWriter(f)
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || path == tmp {
			return err
		}
		return add(w, dir, path)
	})
	if err := errors.Join(err, w.Close(), f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, out)
}

func add(w *tar.Writer, dir, path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	name, err := filepath.Rel(dir, path)
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), ModTime: time.Unix(0, 0), Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}
