package workload

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"
)

// The documented table is one, with no key that is none.
func TestDocumentedTable(t *testing.T) {
	page, err := os.ReadFile("../../docs/workloads.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(page, []byte("```json\n"))
	block, _, _ := bytes.Cut(rest, []byte("```"))
	if table, err := ParseTable(block); err != nil || len(table.Workloads) != 1 {
		t.Fatalf("%+v, %v", table, err)
	}
	d := json.NewDecoder(bytes.NewReader(block))
	d.DisallowUnknownFields()
	if err := d.Decode(new(Table)); err != nil {
		t.Error(err)
	}
}
