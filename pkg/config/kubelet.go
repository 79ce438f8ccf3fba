package config

import (
	"encoding/json"
	"fmt"
	"path"
	"strings"

	"sigs.k8s.io/yaml"
)

// What a KubeletConfiguration says of itself; kubelet.config.k8s.io has no other version.
const (
	kubeletKind       = "KubeletConfiguration"
	kubeletAPIVersion = "kubelet.config.k8s.io/v1beta1"
)

// inheritedKeys have the same name, form and meaning in both files.
var inheritedKeys = []string{
	"evictionHard", "evictionSoft", "evictionSoftGracePeriod", "evictionMinimumReclaim",
	"evictionMaxPodGracePeriod", "evictionPressureTransitionPeriod", "mergeDefaultEvictionSettings",
	"enforceNodeAllocatable", "localStorageCapacityIsolation", "containerRuntimeEndpoint",
	"imageMinimumGCAge", "podLogsDir",
}

// inherit returns the settings of the KubeletConfiguration that c names, raised by the
// headroom, with everything that our own file says decoded over them.
func (c *Config) inherit(own json.RawMessage, read func(path string) ([]byte, error)) (*Config, error) {
	switch {
	case c.KubeletConfig == "" && c.Headroom.given():
		return nil, &Error{Key: "headroom", Want: "kubeletConfig beside it, whose thresholds it raises"}
	case c.KubeletConfig == "":
		return c, nil
	}
	k, err := loadKubelet(c.KubeletConfig, read)
	if err != nil {
		return nil, fmt.Errorf("kubeletConfig %s: %w", c.KubeletConfig, err)
	}
	members, err := object("", own, c.keys())
	if err != nil {
		return nil, err
	}
	if given(members, "mergeDefaultEvictionSettings") {
		k.MergeDefaultEvictionSettings = c.MergeDefaultEvictionSettings
	}
	if err := k.raise(c.Headroom, members); err != nil {
		return nil, err
	}
	return k, decodeObject("", own, k.keys())
}

// raise replaces the thresholds that our own file leaves to the kubelet. The defaults are
// written out: they are the kubelet's too.
func (c *Config) raise(h Headroom, own map[string]json.RawMessage) (err error) {
	if !given(own, "evictionHard") {
		c.EvictionHard, err = h.raise("evictionHard", c.hard())
	}
	c.MergeDefaultEvictionSettings = false
	if err == nil && !given(own, "evictionSoft") {
		c.EvictionSoft, err = h.raise("evictionSoft", c.EvictionSoft)
	}
	return err
}

// loadKubelet reads a KubeletConfiguration. Keys that we don't inherit are the kubelet's to
// validate, and so are repeated ones, of which it takes the last (its lenient decoding,
// v1.34).
//
// The file is decoded key by key as our own is, for the same messages, and not into the
// type of k8s.io/kubelet: that brings net/http, Prometheus and OpenTelemetry into a process
// that has no network. A test holds the names against the type.
func loadKubelet(file string, read func(path string) ([]byte, error)) (*Config, error) {
	data, err := read(file)
	if err != nil {
		return nil, err
	}
	j, err := yaml.YAMLToJSON(data)
	if err != nil {
		return nil, err
	}
	k, root, perQOS := Default(), "", true
	all, keys := k.keys(), map[string]decoder{
		"cgroupRoot":    value(&root, "a cgroup path", cgroupRootOK),
		"cgroupsPerQOS": boolean(&perQOS),
	}
	for _, key := range inheritedKeys {
		keys[key] = all[key]
	}
	members, err := object("", j, keys)
	if err != nil {
		return nil, err
	}
	if err := checkKind(members); err != nil {
		return nil, err
	}
	if err := decodeMembers("", members, keys); err != nil {
		return nil, err
	}
	k.Roots = podRoots(root, perQOS)
	_, err = k.Thresholds()
	return k, err
}

func checkKind(members map[string]json.RawMessage) error {
	for _, want := range []struct{ key, value string }{{"apiVersion", kubeletAPIVersion}, {"kind", kubeletKind}} {
		if !given(members, want.key) {
			return &Error{Key: want.key, Want: want.value}
		}
		var got string
		if err := choice(&got, want.value)(want.key, members[want.key]); err != nil {
			return err
		}
	}
	return nil
}

func cgroupRootOK(root string) bool {
	return !strings.Contains("/"+root+"/", "/../") && !strings.Contains(root, "\x00")
}

// podRoots are the names that the pods' cgroup has with the cgroup drivers cgroupfs and
// systemd (cm.NodeAllocatableRoot, v1.34). Both are tried, and cgroupDriver is not read: the
// kubelet asks the container runtime for it, by default since v1.31 and always since v1.34.
func podRoots(cgroupRoot string, perQOS bool) []string {
	parts := strings.FieldsFunc(cgroupRoot, func(r rune) bool { return r == '/' })
	// Without either the pods lie at the top, which can be no root: the default, which
	// then does not exist, makes the agent ask for roots.
	if perQOS || len(parts) == 0 {
		parts = append(parts, "kubepods")
	}
	slice, name := "", ""
	for _, part := range parts {
		name = strings.TrimPrefix(name+"-"+strings.ReplaceAll(part, "-", "_"), "-")
		slice += "/" + name + ".slice"
	}
	return []string{"/" + path.Join(parts...), slice}
}
