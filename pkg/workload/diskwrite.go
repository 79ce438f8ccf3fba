package workload

import (
	"encoding/json"
	"fmt"
)

// WriteDisk replaces the disk table (0644) by rename; it sets the schema. One goroutine of
// one process may write a table at a time.
func WriteDisk(path string, t *DiskTable) error {
	stamped := *t
	stamped.Schema = DiskSchema
	data, err := json.Marshal(&stamped)
	if err == nil {
		err = ReplaceFile(path, append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write the disk figures: %w", err)
	}
	return nil
}
