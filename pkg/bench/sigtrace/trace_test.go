package sigtrace

import "testing"

func TestSignalLineOfTheTrace(t *testing.T) {
	const line = "        earlyoom-4711    [001] dn.2.  5321.000456: signal_generate: sig=9 errno=0 code=0 comm=load hog pid=4712 grp=1 res=0"
	ns, pid, ok := parseSignal(line)
	if !ok || ns != 5321_000456_000 || pid != 4712 {
		t.Errorf("got %d, %d, %v", ns, pid, ok)
	}
	if _, _, ok := parseSignal("# tracer: nop"); ok {
		t.Error("a header is a signal")
	}
}
