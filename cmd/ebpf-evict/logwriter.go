package main

import (
	"fmt"
	"io"
	"os/signal"
	"syscall"
	"time"

	"github.com/rs/zerolog/diode"
)

// logWriter keeps the agent from waiting for who reads its log: a reader that stalls costs
// lines, and one that goes away costs all of them, and neither costs a kill.
type logWriter struct {
	diode.Writer
}

const (
	// logBacklog is how many lines may wait for their reader.
	logBacklog = 1000
	// flushWithin is how long an agent that ends waits for the reader.
	flushWithin = 200 * time.Millisecond
)

func newLogWriter(w io.Writer) logWriter {
	signal.Ignore(syscall.SIGPIPE) // else a reader that goes away would be the end of the agent
	open := struct{ io.Writer }{w} // what closes the log must not close standard error
	return logWriter{diode.NewWriter(open, logBacklog, 0, func(missed int) {
		fmt.Fprintf(w, "%d lines of the log are lost\n", missed)
	})}
}

func (w logWriter) flush() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = w.Close()
	}()
	select {
	case <-done:
	case <-time.After(flushWithin):
	}
}
