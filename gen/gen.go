// Package gen holds the compiled BPF object and the Go types generated from it.
// Only pkg/loader imports it; `make generate` rebuilds it.
package gen

//go:generate go tool bpf2go -target bpfel -type record Evict ../bpf/evict.bpf.c
