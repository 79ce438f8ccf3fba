package disk

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// infraImage is the sandboxes', by containerd's configuration alone.
	infraImage  = "ebpf-evict.test/infra:1"
	writerImage = "ebpf-evict.test/writer:1"
)

// ociImage is an image in memory: blobs by digest, and the manifest that names them.
type ociImage struct {
	blobs    map[string][]byte
	manifest descriptor
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// newImage has the writer as its program, by that name and waiting, and a layer of so much of
// its own.
func newImage(t *testing.T, name string, ballastMebibytes int) *ociImage {
	t.Helper()
	program, err := os.ReadFile("../../bin/disk-writer")
	if err != nil {
		t.Fatalf("%v: `make test-disk` builds it", err)
	}
	ballast := make([]byte, ballastMebibytes<<20+16)
	_, _ = rand.Read(ballast) // no two images share a layer, or an id
	i := &ociImage{blobs: map[string][]byte{}}
	layers := []descriptor{
		i.add("application/vnd.oci.image.layer.v1.tar", archive(t, name, program, 0o755)),
		i.add("application/vnd.oci.image.layer.v1.tar", archive(t, "ballast", ballast, 0o644)),
	}
	config := i.addJSON(t, "application/vnd.oci.image.config.v1+json", map[string]any{
		"architecture": "amd64", "os": "linux",
		"config": map[string]any{"Entrypoint": []string{"/" + name}, "Cmd": []string{"wait"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{layers[0].Digest, layers[1].Digest}},
	})
	i.manifest = i.addJSON(t, "application/vnd.oci.image.manifest.v1+json", map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": layers,
	})
	return i
}

func (i *ociImage) add(mediaType string, blob []byte) descriptor {
	sum := sha256.Sum256(blob)
	d := descriptor{MediaType: mediaType, Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: len(blob)}
	i.blobs[d.Digest] = blob
	return d
}

func (i *ociImage) addJSON(t *testing.T, mediaType string, v any) descriptor {
	t.Helper()
	blob, err := json.Marshal(v)
	must(t, err)
	return i.add(mediaType, blob)
}

func archive(t *testing.T, name string, data []byte, mode int64) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	addFile(t, w, name, data, mode)
	must(t, w.Close())
	return out.Bytes()
}

func addFile(t *testing.T, w *tar.Writer, name string, data []byte, mode int64) {
	t.Helper()
	must(t, w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(data))}))
	_, err := w.Write(data)
	must(t, err)
}

// layout is the image as an OCI archive.
func (i *ociImage) layout(t *testing.T, name string) []byte {
	t.Helper()
	named := i.manifest
	named.Annotations = map[string]string{"io.containerd.image.name": name}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []descriptor{named}})
	must(t, err)
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	addFile(t, w, "oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644)
	addFile(t, w, "index.json", index, 0o644)
	for digest, blob := range i.blobs {
		addFile(t, w, "blobs/sha256/"+digest[len("sha256:"):], blob, 0o644)
	}
	must(t, w.Close())
	return out.Bytes()
}

// Image has the runtime know an image, which takes twice its ballast: packed and unpacked.
func (b *bed) Image(name string, ballastMebibytes int) {
	b.t.Helper()
	file := b.file("image.tar")
	program := "writer"
	if name == infraImage {
		program = "pause" // the agent knows a sandbox by it
	}
	must(b.t, os.WriteFile(file, newImage(b.t, program, ballastMebibytes).layout(b.t, name), 0o600))
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
