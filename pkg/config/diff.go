package config

import (
	"reflect"
	"slices"
	"strings"
)

// Diff returns the keys whose values differ, in the order of Config's fields: what a
// reload changed. Values are compared as they are written, so that "1Gi" and "1024Mi"
// differ, and nil and empty maps too. Inherited values count like our own.
func (c *Config) Diff(other *Config) []string {
	a, b := reflect.ValueOf(*c), reflect.ValueOf(*other)
	var keys []string
	for i := range a.NumField() {
		key := keyOf(a.Type().Field(i))
		if key != "-" && !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			keys = append(keys, key)
		}
	}
	return keys
}

// RestartKeys are the keys that a running agent can't take over.
var RestartKeys = []string{
	"roots", "journal", "state", "workloads", "tableOwner", "disk", "reclaim", "drill", "hugepages", "leastTier", "fillBytesPerSecond", "marginBytes", "btf",
}

// KeepUntilRestart gives c the former values of RestartKeys.
func (c *Config) KeepUntilRestart(former *Config) {
	to, from := reflect.ValueOf(c).Elem(), reflect.ValueOf(former).Elem()
	for i := range to.NumField() {
		if slices.Contains(RestartKeys, keyOf(to.Type().Field(i))) {
			to.Field(i).Set(from.Field(i))
		}
	}
	c.RootsGiven = former.RootsGiven
}

func keyOf(f reflect.StructField) string {
	if key := f.Tag.Get("key"); key != "" {
		return key
	}
	return strings.ToLower(f.Name[:1]) + f.Name[1:]
}
