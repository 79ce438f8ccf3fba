package main

import (
	"context"
	"fmt"
	"maps"

	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
	kubeletscheme "k8s.io/kubernetes/pkg/kubelet/apis/config/scheme"
	"k8s.io/kubernetes/pkg/kubelet/apis/config/validation"
	"k8s.io/kubernetes/pkg/kubelet/eviction"
	evictionapi "k8s.io/kubernetes/pkg/kubelet/eviction/api"
	"k8s.io/kubernetes/pkg/kubelet/kubeletconfig/util/codec"
	"sigs.k8s.io/yaml"
)

// kubelet is what the kubelet makes of a configuration file.
type kubelet struct {
	*kubeletconfig.KubeletConfiguration
}

// thresholds are parsed anew for each manager: it writes into the list, and what it finds
// there later depends on the spare room that the parser leaves behind it.
func (k kubelet) thresholds() ([]evictionapi.Threshold, error) {
	return eviction.ParseThresholdConfig(k.EnforceNodeAllocatable, k.EvictionHard,
		k.EvictionSoft, k.EvictionSoftGracePeriod, k.EvictionMinimumReclaim)
}

func (k kubelet) newOracle(layout eviction.Layout) (*eviction.Oracle, error) {
	thresholds, err := k.thresholds()
	if err != nil {
		return nil, err
	}
	return eviction.NewOracle(eviction.Config{
		PressureTransitionPeriod: k.EvictionPressureTransitionPeriod.Duration,
		MaxPodGracePeriodSeconds: int64(k.EvictionMaxPodGracePeriod),
		Thresholds:               thresholds,
	}, layout, k.LocalStorageCapacityIsolation), nil
}

// rejectedError is the kubelet's refusal to start.
type rejectedError struct{ error }

// parseConfig takes our file the kubelet's way: its decoder with its defaults, its
// validation, its threshold parser. compat is the one key of ours that it may hold.
func parseConfig(text string) (*kubelet, error) {
	keys := map[string]any{}
	if err := yaml.Unmarshal([]byte(text), &keys); err != nil {
		return nil, err
	}
	if keys["compat"] != "kubelet" {
		return nil, fmt.Errorf("compat is %v, want kubelet", keys["compat"])
	}
	delete(keys, "compat")
	keys["apiVersion"], keys["kind"] = "kubelet.config.k8s.io/v1beta1", "KubeletConfiguration"
	data, err := yaml.Marshal(keys)
	if err != nil {
		return nil, err
	}

	_, codecs, err := kubeletscheme.NewSchemeAndCodecs(serializer.EnableStrict)
	if err != nil {
		return nil, err
	}
	kc, err := codec.DecodeKubeletConfiguration(context.Background(), codecs, data)
	if err != nil {
		return nil, rejectedError{err}
	}
	// cmd/kubelet/app/server.go, loadConfigFile.
	defaults := maps.Clone(eviction.DefaultEvictionHard)
	if kc.EvictionHard == nil {
		kc.EvictionHard = defaults
	} else if kc.MergeDefaultEvictionSettings {
		maps.Copy(defaults, kc.EvictionHard)
		kc.EvictionHard = defaults
	}
	if err := validation.ValidateKubeletConfiguration(kc, utilfeature.DefaultFeatureGate); err != nil {
		return nil, rejectedError{err}
	}
	k := kubelet{kc}
	if _, err := k.thresholds(); err != nil {
		return nil, rejectedError{err}
	}
	return &k, nil
}
