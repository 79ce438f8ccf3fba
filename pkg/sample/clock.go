package sample

import _ "unsafe" // for go:linkname

// Now is CLOCK_MONOTONIC in nanoseconds, the clock of bpf_ktime_get_ns and so of every Ns. It
// is the runtime's own reading, from the vDSO: clock_gettime(2) by way of x/sys is a system
// call, and a pass of the agent asks nine times.
func Now() uint64 { return uint64(nanotime()) }

//go:linkname nanotime runtime.nanotime
func nanotime() int64
