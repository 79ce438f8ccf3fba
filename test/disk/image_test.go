package disk

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"slices"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/ebpf-evict/ebpf-evict/test/ociimage"
)

const (
	// infraImage is the sandboxes', by containerd's configuration alone.
	infraImage  = "ebpf-evict.test/infra:1"
	writerImage = "ebpf-evict.test/writer:1"
)

// newImage has the writer as its program, by that name and waiting, and a layer of so much of
// its own.
func newImage(t testing.TB, name string, ballastMebibytes int) *ociimage.Image {
	t.Helper()
	program, err := os.ReadFile("../../bin/disk-writer")
	if err != nil {
		t.Fatalf("%v: `make test-disk` builds it", err)
	}
	ballast := make([]byte, ballastMebibytes<<20+16)
	_, _ = rand.Read(ballast) // no two images share a layer, or an id
	return ociimage.New(t, []string{"wait"},
		ociimage.File{Name: name, Data: program, Mode: 0o755},
		ociimage.File{Name: "ballast", Data: ballast, Mode: 0o644})
}

// Image has the runtime know an image, which takes twice its ballast: packed and unpacked.
func (b *bed) Image(name string, ballastMebibytes int) {
	b.t.Helper()
	file := b.file("image.tar")
	program := "writer"
	if name == infraImage {
		program = "pause" // the agent knows a sandbox by it
	}
	must(b.t, os.WriteFile(file, newImage(b.t, program, ballastMebibytes).Archive(b.t, name), 0o600))
	defer func() { _ = os.Remove(file) }()
	tool(b.t, "ctr", "-a", b.Socket, "-n", "k8s.io", "images", "import", filepath.Clean(file))
	b.await("image "+name, func() bool { return slices.Contains(b.imageNames(), name) })
}

// imageNames are the tags that the runtime knows.
func (b *bed) imageNames() []string {
	b.t.Helper()
	all, err := b.images.ListImages(b.within(), &runtime.ListImagesRequest{})
	must(b.t, err)
	var names []string
	for _, i := range all.GetImages() {
		names = append(names, i.GetRepoTags()...)
	}
	slices.Sort(names)
	return names
}
