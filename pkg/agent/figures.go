package agent

import (
	"context"
	"errors"
	"math"
	"os"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/decide"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

const (
	// figuresLook is between two looks for new disk figures, figuresAwaited while an answer is
	// to be in them, figuresUnwanted while they are for people alone. A look is a stat, 2 µs,
	// but a wake-up of the process takes 200.
	figuresLook     = 200 * time.Millisecond
	figuresAwaited  = 20 * time.Millisecond
	figuresUnwanted = 2 * time.Second
	// figuresAge is how old a figure may be. One of a tree of millions of files is made anew
	// every some minutes; without it, who has them would never be a victim.
	figuresAge = 15 * time.Minute
	// figuresEvery is when the ages of figures are looked at again.
	figuresEvery = time.Second
	// figuresMissing is how long there may be none before that is an alarm: both processes may
	// have been started at once.
	figuresMissing = 3 * time.Second
)

// FiguresFileAge is how old a file of disk figures may be: whoever writes it is unwell after
// that.
const FiguresFileAge = 30 * time.Second

const (
	reasonNoFigures decide.Reason = "no disk figures: ebpf-evict disk does not run, or is unwell"
	reasonHung      decide.Reason = "ebpf-evict disk does not answer"
	reasonMeasuring decide.Reason = "ebpf-evict disk has not measured all units since its start"
)

// figuresWatch reads the disk figures and says how they are doing. It is of one goroutine.
type figuresWatch struct {
	reader *workload.DiskReader
	// said is what was last said to be wrong; missing is since when there are none, alarmed
	// that this was said.
	said    string
	missing time.Time
	alarmed bool
}

func watchFigures(path string) *figuresWatch {
	return &figuresWatch{reader: workload.NewDiskReader(path, uint32(os.Geteuid()), FiguresFileAge)}
}

// readFigures keeps the disk figures fresh, and wakes the hot thread when an answer that it
// awaits may be in them.
func (s *scout) readFigures(ctx context.Context, path string) {
	w := watchFigures(path)
	for {
		if s.lookForFigures(w) && s.awaited.Load() {
			s.wake()
		}
		pause := figuresUnwanted
		switch {
		case s.awaited.Load():
			pause = figuresAwaited
		case s.wantsFigures():
			pause = figuresLook
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// lookForFigures reads once; true: there are others than before.
func (s *scout) lookForFigures(w *figuresWatch) bool {
	table, err := w.reader.Read(sample.Now())
	s.sayFigures(w, table, err)
	if table == s.figures.Load() {
		return false
	}
	s.figures.Store(table)
	s.kick() // the units' usage follows, and who is above a limit
	return true
}

// sayFigures logs what is wrong with the figures once, and raises an alarm where somebody
// wants them and there are none, and when there are some again.
func (s *scout) sayFigures(w *figuresWatch, table *workload.DiskTable, err error) {
	text, wanted := errorText(err), s.wantsFigures()
	if was := s.figuresErr.Load(); was == nil || *was != text {
		s.figuresErr.Store(&text)
	}
	if text != w.said && err != nil && table != nil {
		s.log.Warn().Err(err).Msg("disk figures refused; the last good ones serve")
	}
	w.said = text
	switch {
	case table != nil:
		w.missing = time.Time{}
		if w.alarmed {
			w.alarmed = false
			s.log.Info().Msg("there are disk figures again")
			s.raise(alarm{reason: "there are disk figures again"})
		}
	case !wanted:
	case w.missing.IsZero():
		w.missing = time.Now()
	case !w.alarmed && time.Since(w.missing) > figuresMissing:
		w.alarmed = true
		s.log.Error().Err(err).Msg("degraded: no disk figures; thresholds and limits of disks kill nobody")
		s.raise(alarm{reason: "no disk figures, thresholds and limits of disks kill nobody: " + text})
	}
}

// wantsFigures: a threshold is about a disk, or some unit has a limit of its own.
func (s *scout) wantsFigures() bool { return s.watchesDisk.Load() || s.limited.Load() }

func errorText(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, workload.ErrDiskStale): // says how old, each time anew
		return workload.ErrDiskStale.Error()
	}
	return err.Error()
}

// addFigures adds what is known of the units' disk usage.
func (s *scout) addFigures() {
	l, table := &s.lead, s.figures.Load()
	if table == nil && l.figures == nil || table == l.figures && time.Since(l.figuresAt) < figuresEvery {
		return
	}
	l.figures, l.figuresAt = table, time.Now()
	for _, u := range s.known.units {
		f, said := figuresOf(u, table)
		s.sayLogs(&f.usage)
		switch was := u.disk.Load(); {
		case !said:
			u.disk.Store(nil)
		case was == nil || *was != f:
			changed := f
			u.disk.Store(&changed)
		}
	}
	s.applied.Store(table)
}

// sayLogs says once that logs lie where they free nothing on nodefs.
func (s *scout) sayLogs(u *workload.DiskUsage) {
	settings := s.settings.Load()
	if s.saidLogs || u.LogsElsewhere == (workload.FsUsage{}) || settings == nil || settings.Compat {
		return
	}
	s.saidLogs = true
	s.log.Info().Msg("the pods' logs lie on another filesystem than nodefs: they count for limits, and for none of its thresholds")
}

// figuresOf is what a table says of a unit. A pod that it does not know can have filled anything
// since it came; what is no pod has figures where directories are configured for it alone.
func figuresOf(u *unit, table *workload.DiskTable) (f diskFigures, said bool) {
	if table == nil {
		return f, false
	}
	e := table.Entry(u.UID)
	if e == nil {
		f.unmeasured = workload.FsUsage{Bytes: math.MaxInt64, Inodes: math.MaxInt64}
		return f, u.QOSClass != ""
	}
	f.unmeasured = e.Unmeasured()
	if usage := e.Usage(sample.Now(), figuresAge); usage != nil {
		f.isKnown, f.usage = true, *usage
	}
	return f, true
}

// fresh are the disk figures that serve at a moment, nil when there are none: the process
// that looks for them may be late as well.
func (s *scout) fresh(nowNs uint64) *workload.DiskTable {
	t := s.figures.Load()
	if t == nil || (workload.Reading{ReadNs: t.WrittenNs}).Age(nowNs) > FiguresFileAge+figuresMissing {
		return nil
	}
	return t
}

// holdDisks says what keeps evictions for disks from being decided: nobody dies for a disk
// while nobody can tell who fills it.
func (a *Agent) holdDisks(nowNs uint64) decide.Hold {
	switch {
	case a.disks == nil:
		return decide.Hold{}
	case a.scout.fresh(nowNs) == nil:
		return decide.Hold{Verdict: decide.Refuse, Reason: reasonNoFigures}
	case a.scout.fresh(nowNs).Measuring:
		return decide.Hold{Verdict: decide.Refuse, Reason: reasonMeasuring}
	case a.reclaim.hung:
		return decide.Hold{Verdict: decide.Refuse, Reason: reasonHung}
	case a.limitsPending():
		return decide.Hold{Verdict: decide.Wait, Reason: decide.ReasonLimits}
	}
	return decide.Hold{}
}

// noteUnmeasured keeps in mind for whom a disk was refused last, while it is short.
func (a *Agent) noteUnmeasured(d *decide.Decision) {
	switch {
	case d.Bound >= 0 && d.Reason == decide.ReasonUnmeasured:
		a.unmeasured = a.scene.units[d.Unmeasured]
	case !a.isDiskShort(d), d.Bound >= 0 && a.settings.Bounds[d.Bound].Signal.Disk():
		a.unmeasured = nil
	}
}

func (a *Agent) isDiskShort(d *decide.Decision) bool {
	for i := range a.settings.Bounds {
		if d.Met[i] && a.settings.Bounds[i].Signal.Disk() {
			return true
		}
	}
	return false
}

// refusal is why nobody is killed, with the unit that it is about.
func (a *Agent) refusal(reason decide.Reason) string {
	if reason != decide.ReasonUnmeasured {
		return string(reason)
	}
	w := &a.unmeasured.Workload
	name := w.Cgroup
	if w.Namespace != "" {
		name = w.Namespace + "/" + w.Name + ", " + name
	}
	return string(reason) + ": " + name
}
