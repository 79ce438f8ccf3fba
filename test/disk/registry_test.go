package disk

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ebpf-evict/ebpf-evict/test/ociimage"
)

// registry serves one image, and its blobs only once it is let go.
type registry struct {
	*httptest.Server
	// Asked is closed when the first blob is asked for.
	Asked chan struct{}
	letGo chan struct{}
}

func newRegistry(t *testing.T, i *ociimage.Image) *registry {
	t.Helper()
	r := &registry{Asked: make(chan struct{}), letGo: make(chan struct{})}
	var once sync.Once
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/v2/" {
			return
		}
		digest := q.URL.Path[strings.LastIndex(q.URL.Path, "/")+1:]
		if strings.Contains(q.URL.Path, "/manifests/") {
			digest = i.Manifest.Digest
			w.Header().Set("Content-Type", i.Manifest.MediaType)
			w.Header().Set("Docker-Content-Digest", digest)
		} else {
			once.Do(func() { close(r.Asked) })
			select {
			case <-r.letGo:
			case <-q.Context().Done():
				return
			}
		}
		blob, ok := i.Blobs[digest]
		if !ok {
			http.NotFound(w, q)
			return
		}
		http.ServeContent(w, q, "", time.Time{}, strings.NewReader(string(blob)))
	}))
	t.Cleanup(r.Close)
	return r
}

// LetGo serves what is asked for.
func (r *registry) LetGo() { close(r.letGo) }

// Name is the image's.
func (r *registry) Name() string { return r.Listener.Addr().String() + "/pulled:1" }
