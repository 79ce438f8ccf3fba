package disk

import (
	"errors"
	"os"
	"path"
	"strings"
)

// volumePlugins are, by their directories below a pod's, those whose volumes count as local
// ephemeral storage (IsLocalEphemeralVolume, v1.34). A hostPath is one for the kubelet too, but its
// statistics have no figure of any (kubernetes#127548), and neither have we.
var volumePlugins = []struct {
	name string
	kind kind
}{
	{"kubernetes.io~empty-dir", emptyDir}, {"kubernetes.io~configmap", localVolume}, {"kubernetes.io~git-repo", localVolume},
}

// kubelet is where the kubelet keeps what pods fill.
type kubelet struct {
	// root is its --root-dir, logs its pod log directory.
	root, logs string
}

// logDirectories maps pod uids to directories of logs: NAMESPACE_NAME_UID.
func (k kubelet) logDirectories() (map[string]string, error) {
	names, err := place{k.logs, "."}.directories()
	if err != nil {
		return nil, err
	}
	dirs := make(map[string]string, len(names))
	for _, name := range names {
		dirs[name[strings.LastIndexByte(name, '_')+1:]] = name
	}
	return dirs, nil
}

// pods is the directory of the pods.
func (k kubelet) pods() string { return path.Join(k.root, "pods") }

// volumes are the parts below a pod's directory.
func (k kubelet) volumes(uid string) ([]*part, error) {
	if _, err := (place{k.pods(), uid}).directories(); err != nil {
		return nil, err
	}
	parts := []*part{{place: place{k.pods(), path.Join(uid, "etc-hosts")}, kind: hostsFile}}
	for _, of := range volumePlugins {
		rel := path.Join(uid, "volumes", of.name)
		names, err := place{k.pods(), rel}.directories()
		if err != nil && !errors.Is(err, os.ErrNotExist) { // as a rule there is none of a kind
			return nil, err
		}
		for _, name := range names {
			parts = append(parts, &part{place: place{k.pods(), path.Join(rel, name)}, kind: of.kind, name: name})
		}
	}
	return parts, nil
}

// logParts are the parts of a pod's directory of logs.
func (k kubelet) logParts(dir string) ([]*part, error) {
	names, err := place{k.logs, dir}.directories()
	if err != nil {
		return nil, err
	}
	parts := []*part{{place: place{k.logs, dir}, kind: podLogs}}
	for _, name := range names {
		parts = append(parts, &part{place: place{k.logs, path.Join(dir, name)}, kind: containerLogs, name: name})
	}
	return parts, nil
}
