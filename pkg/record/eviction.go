package record

// Eviction is what the journal tells of one eviction, or of a reclaim that made it needless.
type Eviction struct {
	// Kill is the first line written after SIGKILL, nil where nobody was killed.
	Kill *Entry
	// Closed is the closing line, of a pod that was killed again the last one, with its
	// Attempts. While it is nil the eviction is still open, or the agent died before it
	// closed it.
	Closed *Entry
}

// Last is the line that knows most: the closing one if there is one.
func (e Eviction) Last() *Line {
	if e.Closed != nil {
		return &e.Closed.Line
	}
	return &e.Kill.Line
}

// Entries are the lines there are, in the order they were written.
func (e Eviction) Entries() []*Entry {
	var es []*Entry
	for _, entry := range []*Entry{e.Kill, e.Closed} {
		if entry != nil {
			es = append(es, entry)
		}
	}
	return es
}

// AddOpen adds what a state file knows of evictions that are not closed to their lines.
func AddOpen(all []Eviction, s *State) {
	for i := range all {
		if all[i].Closed != nil {
			continue
		}
		for _, open := range s.Evictions {
			if l := &all[i].Kill.Line; l.ID == open.ID {
				l.Timeline = &open.Timeline
			}
		}
	}
}

// ReadDrills returns the drill lines of a journal. Errors are those of ReadJournal.
func ReadDrills(path string) (lines []Entry, err error) {
	_, err = ScanJournal(path, func(e Entry) error {
		if e.Kind == KindDrill {
			lines = append(lines, e)
		}
		return nil
	})
	return lines, err
}

// ReadEvictions reads the evictions of a journal in the order of their first line, and what
// reclaim made needless, which has a closing line alone. It joins kill and eviction lines by
// their id. Errors are those of ReadJournal.
func ReadEvictions(path string) (all []Eviction, skipped int, err error) {
	at := map[ID]int{}
	skipped, err = ScanJournal(path, func(e Entry) error {
		if e.Kind != KindKill && e.Kind != KindEviction && e.Kind != KindReclaim {
			return nil
		}
		i, ok := at[e.ID]
		if !ok || e.ID.IsZero() {
			i = len(all)
			at[e.ID] = i
			all = append(all, Eviction{})
		}
		switch {
		case e.Kind != KindKill:
			all[i].Closed = &e
		case all[i].Kill == nil:
			all[i].Kill = &e
		}
		return nil
	})
	return all, skipped, err
}
