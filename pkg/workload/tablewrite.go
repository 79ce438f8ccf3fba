package workload

import (
	"encoding/json"
	"fmt"
)

// The most that a table may hold: bytes, and workloads, containers and volumes together.
const (
	MaxTableBytes    = maxTableBytes
	MaxTableElements = maxElements
)

// WriteTable replaces the workload table (0644) by rename; it sets the schema. A table that
// a reader would refuse is ErrTable, and not written. One goroutine of one process may
// write a table at a time.
func WriteTable(path string, t *Table) error {
	stamped := *t
	stamped.Schema = TableSchema
	data, err := json.Marshal(&stamped)
	if err == nil {
		_, err = ParseTable(data)
	}
	if data = append(data, '\n'); err == nil && len(data) > maxTableBytes {
		err = fmt.Errorf("%w: %d bytes, more than %d", ErrTable, len(data), maxTableBytes)
	}
	if err == nil {
		err = ReplaceFile(path, data)
	}
	if err != nil {
		return fmt.Errorf("write the workload table: %w", err)
	}
	return nil
}
