package workload

import (
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// The most that a file of another, less privileged process may hold: whoever reads it has a memory
// limit, and is not to be ended by the file. 500 pods with 5 containers and 5 emptyDirs each are
// 1 MiB of either table, and 6,500 elements of arrays (TestADenseNodeIsFarBelowTheBounds). The most that
// is allocated is 28 MB for a file, and 10 MB of it stay (TestWhateverIsInAFileItsReaderStaysSmall).
const (
	maxTableBytes = 4 << 20
	// maxDiskBytes is more, as a table in the place of a reserve is padded with blanks.
	maxDiskBytes    = 8 << 20
	maxReclaimBytes = 64 << 10
	// maxElements is of all arrays together: `{},`, three bytes of a file, is a struct of some 300.
	maxElements = 32 << 10
	maxNesting  = 32
	// maxPathBytes is the kernel's PATH_MAX, for what may be a path; a name of Kubernetes has at
	// most 253 bytes.
	maxPathBytes = 4096
	maxNameBytes = 512
)

// decode reads a file's JSON within the bounds, and has it checked, up to the first error.
func decode(data []byte, into any, checks ...func() error) error {
	if err := checkBounds(data); err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return err
	}
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// checkBounds refuses JSON that takes far more memory than its own size, or, where a byte that is
// no UTF-8 is read as three, somewhat more. It says nothing of what is no JSON.
func checkBounds(data []byte) error {
	if !utf8.Valid(data) {
		return errors.New("no UTF-8")
	}
	var nested []byte // the brackets that are open
	elements, inString := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '[' || c == '{':
			if nested = append(nested, c); len(nested) > maxNesting {
				return fmt.Errorf("nested deeper than %d", maxNesting)
			}
			if c == '[' {
				elements++
			}
		case (c == ']' || c == '}') && len(nested) > 0:
			nested = nested[:len(nested)-1]
		case c == ',' && len(nested) > 0 && nested[len(nested)-1] == '[':
			elements++
		}
		if elements > maxElements {
			return fmt.Errorf("more than %d workloads, containers and volumes", maxElements)
		}
	}
	return nil
}

// checkNames refuses names that are none: they end up in log and journal.
func checkNames(names ...string) error { return checkLengths(maxNameBytes, names) }

// checkPaths is checkNames of what may be a path.
func checkPaths(paths ...string) error { return checkLengths(maxPathBytes, paths) }

func checkLengths(most int, texts []string) error {
	for _, text := range texts {
		if len(text) > most {
			return fmt.Errorf("%.40q… has %d bytes, more than %d", text, len(text), most)
		}
	}
	return nil
}

// refuse words an error for the log and the journal: what it quotes from a file may be as long as
// the file.
func refuse(kind, err error) error { return fmt.Errorf("%w: %.300s", kind, err) }

// stamp tells one content of a file from another: whoever replaces it, writes into it or gives it
// another owner or mode changes one of these. The zero stamp is no file's.
type stamp struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

func stampOf(path string) (stamp, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return stamp{}, fmt.Errorf("lstat %s: %w", path, err)
	}
	return stamp{uint64(st.Dev), st.Ino, st.Size, st.Mtim, st.Ctim}, nil
}
