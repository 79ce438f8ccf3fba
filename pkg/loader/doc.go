// Package loader owns every BPF file descriptor: it loads the programs that the kernel
// can take, attaches and detaches their hooks, sets wires and limits, and decodes ring
// buffer records into samples. It is the only importer of package gen.
package loader
