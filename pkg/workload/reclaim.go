package workload

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// ReclaimSchema is the schema of the agent's request for node-level reclaim.
const ReclaimSchema = "ebpf-evict/reclaim/v1"

// ReclaimRequest asks the disk process to free what no pod needs, before one dies for a
// disk, and to make the figures of who grows anew. It is answered once for each id, in
// DiskTable.Reclaim, also when it failed.
//
//	{"schema":"ebpf-evict/reclaim/v1","id":"01JDQ5C3Z8Y7W6V5T4S3R2Q1P0","signal":"imagefs.available",
//	 "containers":true,"images":true,"deadlineNs":100000000000,"availableWanted":4294967296}
type ReclaimRequest struct {
	Schema string `json:"schema"`
	// ID is the request's, a ULID. A file with the same id is the same request.
	ID string `json:"id"`
	// Signal is the one that a threshold was met of.
	Signal string `json:"signal"`
	// Containers are dead ones, Images unused ones. With neither, figures are all that is wanted.
	Containers bool `json:"containers"`
	Images     bool `json:"images"`
	// DeadlineNs, CLOCK_MONOTONIC, is until when the agent waits. What is freed later may
	// come too late for a pod.
	DeadlineNs uint64 `json:"deadlineNs"`
	// AvailableWanted is how many bytes or inodes, as the signal counts, are to be available
	// on its filesystem. With that much the work may stop.
	AvailableWanted int64 `json:"availableWanted"`
}

// ErrReclaim means that a file is no request for reclaim.
var ErrReclaim = errors.New("reclaim request refused")

// Left is how long the agent goes on waiting; never negative.
func (r *ReclaimRequest) Left(nowNs uint64) time.Duration {
	return time.Duration(r.DeadlineNs - min(nowNs, r.DeadlineNs))
}

// LoadReclaim reads a request that owner wrote. A symbolic link, a fifo, a file of another
// owner or of more than 64 KiB is ErrReclaim; no file is os.ErrNotExist.
func LoadReclaim(path string, owner uint32) (*ReclaimRequest, error) {
	data, err := readFile(path, owner, maxReclaimBytes, ErrReclaim)
	if err != nil {
		return nil, fmt.Errorf("read the reclaim request: %w", err)
	}
	return ParseReclaim(data)
}

// ParseReclaim parses and checks a request. All errors are ErrReclaim.
func ParseReclaim(data []byte) (*ReclaimRequest, error) {
	var r ReclaimRequest
	if err := decode(data, &r, r.check); err != nil {
		return nil, refuse(ErrReclaim, err)
	}
	return &r, nil
}

func (r *ReclaimRequest) check() error {
	switch {
	case r.Schema != ReclaimSchema:
		return fmt.Errorf("schema %q, want %q", r.Schema, ReclaimSchema)
	case r.ID == "" || r.Signal == "":
		return errors.New("no id or no signal")
	case r.DeadlineNs == 0:
		return errors.New("no deadlineNs")
	}
	if err := checkNames(r.ID, r.Signal); err != nil {
		return err
	}
	return plausible(&r.AvailableWanted)
}

// WriteReclaim replaces the request (0644) by rename; it sets the schema. One goroutine of
// one process may write it at a time.
func WriteReclaim(path string, r *ReclaimRequest) error {
	stamped := *r
	stamped.Schema = ReclaimSchema
	data, err := json.Marshal(&stamped)
	if err == nil {
		err = ReplaceFile(path, append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write the reclaim request: %w", err)
	}
	return nil
}
