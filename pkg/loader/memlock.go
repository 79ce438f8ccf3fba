package loader

import (
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// raiseMemlock lifts RLIMIT_MEMLOCK, which BPF maps and programs are charged to before 5.11.
//
// Not by cilium/ebpf's package rlimit: importing it makes each process call bpf(2) before main,
// and one whose seccomp filter forbids that, as the exporter's does, is killed.
func raiseMemlock(log zerolog.Logger) {
	all := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &all); err != nil {
		log.Debug().Err(err).Msg("memlock limit not raised; needed below 5.11 only")
	}
}
