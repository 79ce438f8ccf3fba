// Package ociimage makes container images for tests, of single files and without a tool.
package ociimage

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"runtime"
	"testing"
)

// File is one of an image, in its root directory and in a layer of its own.
type File struct {
	Name string
	Data []byte
	Mode int64
}

// Image is an image in memory.
type Image struct {
	// Blobs are by digest.
	Blobs    map[string][]byte
	Manifest Descriptor
}

// Descriptor names a blob, as the OCI's image-spec has it.
type Descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// New makes an image whose entry point is the first file, with the given command.
func New(t testing.TB, command []string, files ...File) *Image {
	t.Helper()
	i := &Image{Blobs: map[string][]byte{}}
	var layers []Descriptor
	var digests []string
	for _, f := range files {
		layer := i.add("application/vnd.oci.image.layer.v1.tar", archive(t, f))
		layers, digests = append(layers, layer), append(digests, layer.Digest)
	}
	config := i.addJSON(t, "application/vnd.oci.image.config.v1+json", map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": []string{"/" + files[0].Name}, "Cmd": command},
		"rootfs": map[string]any{"type": "layers", "diff_ids": digests},
	})
	i.Manifest = i.addJSON(t, "application/vnd.oci.image.manifest.v1+json", map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": layers,
	})
	return i
}

func (i *Image) add(mediaType string, blob []byte) Descriptor {
	sum := sha256.Sum256(blob)
	d := Descriptor{MediaType: mediaType, Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: len(blob)}
	i.Blobs[d.Digest] = blob
	return d
}

func (i *Image) addJSON(t testing.TB, mediaType string, v any) Descriptor {
	t.Helper()
	blob, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return i.add(mediaType, blob)
}

// Archive is the image as an OCI archive, under a name that containerd's import goes by.
func (i *Image) Archive(t testing.TB, name string) []byte {
	t.Helper()
	named := i.Manifest
	named.Annotations = map[string]string{"io.containerd.image.name": name}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []Descriptor{named}})
	if err != nil {
		t.Fatal(err)
	}
	files := []File{
		{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644},
		{"index.json", index, 0o644},
	}
	for digest, blob := range i.Blobs {
		files = append(files, File{"blobs/sha256/" + digest[len("sha256:"):], blob, 0o644})
	}
	return archive(t, files...)
}

func archive(t testing.TB, files ...File) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.Name, Mode: f.Mode, Size: int64(len(f.Data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.Data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
