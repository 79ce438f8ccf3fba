// Package agent is the only room that knows the order: a wake-up becomes one pass through
// loader, signal, decide, actuator and record (pass.go, one page). Four threads share the
// work: the hot one decides and strikes; the scout prepares what it needs; a finisher for
// each victim kills the rest and waits; the recorder writes.
package agent
