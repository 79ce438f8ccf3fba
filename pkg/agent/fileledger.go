package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ebpf-evict/ebpf-evict/pkg/fallback"
	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
)

// fileLedger keeps intents in a file, where there is no pinned map.
type fileLedger struct{ file *fallback.Intents }

var _ ledger = (*fileLedger)(nil)

// intentsName is the file, beside the journal.
const intentsName = "intents"

func openFileLedger(journal string) (*fileLedger, error) {
	dir := filepath.Dir(journal)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the journal's directory: %w", err)
	}
	file, err := fallback.OpenIntents(filepath.Join(dir, intentsName))
	if err != nil {
		return nil, err
	}
	return &fileLedger{file}, nil
}

// leftFile is what an agent without BPF has left, nil where there was none.
func leftFile(journal string) (*fileLedger, error) {
	if _, err := os.Lstat(filepath.Join(filepath.Dir(journal), intentsName)); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return openFileLedger(journal)
}

// StaleIntents are those that a former agent left open.
func (l *fileLedger) StaleIntents() (stale []loader.Intent) {
	for _, in := range l.file.Stale() {
		stale = append(stale, loader.Intent{
			ID: in.ID, Ns: in.Ns, WallNs: in.WallNs, MemoryID: in.MemoryID, PidsID: in.PidsID, Seq: in.Seq,
			Available: in.Available, ThresholdValue: in.ThresholdValue, Capacity: in.Capacity,
			Signal: in.Signal, UID: in.UID, Cgroup: in.Cgroup, PidsMaxBefore: in.PidsMaxBefore,
			Signalled: in.Signalled, Slot: in.Slot,
		})
	}
	return stale
}

// StoreIntent is loader.StoreIntent, as the rest are.
func (l *fileLedger) StoreIntent(in *loader.Intent) int {
	kept := fallback.Intent{
		ID: in.ID, Ns: in.Ns, WallNs: in.WallNs, MemoryID: in.MemoryID, PidsID: in.PidsID, Seq: in.Seq,
		Available: in.Available, ThresholdValue: in.ThresholdValue, Capacity: in.Capacity,
		Signal: in.Signal, UID: in.UID, Cgroup: in.Cgroup,
	}
	return l.file.Store(&kept)
}

func (l *fileLedger) IntentSignalled(slot int)            { l.file.Signalled(slot) }
func (l *fileLedger) IntentBraked(slot int, before int64) { l.file.Braked(slot, before) }
func (l *fileLedger) FreeIntent(slot int)                 { l.file.Free(slot) }
