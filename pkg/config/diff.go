package config

import (
	"reflect"
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

func keyOf(f reflect.StructField) string {
	if key := f.Tag.Get("key"); key != "" {
		return key
	}
	return strings.ToLower(f.Name[:1]) + f.Name[1:]
}
