package agent

import (
	"runtime"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// The kubelet names each container above its request, with what its own cgroup holds. The table
// lists containers that ended long ago, and none that are ephemeral.
func TestOffendersAreTheContainersThatHoldTheMemory(t *testing.T) {
	type held struct {
		id    string
		bytes int64
	}
	const mib = 1 << 20
	app := workload.EntryContainer{Name: "app", ID: "a1", MemoryRequestBytes: 40 * mib}
	side := workload.EntryContainer{Name: "side", ID: "b2"}
	ended := workload.EntryContainer{Name: "init", ID: "c3"}
	unknown := workload.EntryContainer{Name: "app"}
	for name, tc := range map[string]struct {
		listed []workload.EntryContainer
		run    []held
		want   string  // offending_containers
		usage  []int64 // at least, and not a quarter more
	}{
		"one of two is above its request":      {[]workload.EntryContainer{app, side, ended}, []held{{"a1", 24 * mib}, {"b2", 96 * mib}}, "side", []int64{96 * mib}},
		"both are above their requests":        {[]workload.EntryContainer{app, side}, []held{{"a1", 80 * mib}, {"b2", 64 * mib}}, "app,side", []int64{80 * mib, 64 * mib}},
		"one runs, beside it one that ended":   {[]workload.EntryContainer{app, ended}, []held{{"a1", 96 * mib}}, "app", []int64{96 * mib}},
		"one runs, and the table has no id":    {[]workload.EntryContainer{unknown}, []held{{"a1", 96 * mib}}, "app", []int64{96 * mib}},
		"an ephemeral one holds the memory":    {[]workload.EntryContainer{app}, []held{{"a1", 24 * mib}, {"e9", 96 * mib}}, "", nil},
		"an ephemeral one alone runs":          {[]workload.EntryContainer{app}, []held{{"e9", 96 * mib}}, "", nil},
		"an init container was started again":  {[]workload.EntryContainer{unknown, ended}, []held{{"c4", 96 * mib}}, "", nil},
		"within its request, beside ephemeral": {[]workload.EntryContainer{app, side}, []held{{"a1", 24 * mib}, {"b2", 40 * mib}, {"e9", 80 * mib}}, "side", []int64{40 * mib}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPods(t)
			must(t, workload.WriteTable(p.conf.Workloads, &workload.Table{Workloads: []workload.Entry{
				{UID: uidPodA, Namespace: "default", Name: "web", Containers: tc.listed},
			}}))
			for _, c := range tc.run {
				p.sleeper(podA+"/"+c.id, c.bytes)
			}
			p.a = p.open(met, nil)
			runtime.LockOSThread()            // and ends with the goroutine
			raise(zerolog.Nop(), hotPriority) // as the hot thread: no victim keeps it from the CPU
			p.turns(p.a, "the eviction", func() bool { return len(p.evictions()) == 1 })
			must(t, unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr}, 0)) // what goes on beside it has to end
			l := p.lines(record.KindKill)[0]
			if got := l.Annotations["offending_containers"]; got != tc.want {
				t.Fatalf("offenders %q, want %q: %s", got, tc.want, l.Message)
			}
			usages := strings.Split(l.Annotations["offending_containers_usage"], ",")
			for i, want := range tc.usage {
				if got := resource.MustParse(usages[i]); got.Value() < want || got.Value() > want+want/4 {
					t.Errorf("offender %d uses %s, want %d MiB", i, usages[i], want/mib)
				}
			}
			for name := range strings.SplitSeq(tc.want, ",") {
				if said := strings.Contains(l.Message, "Container "+name+" was using "); said != (name != "") {
					t.Errorf("offenders %q, message %q", tc.want, l.Message)
				}
			}
		})
	}
}
