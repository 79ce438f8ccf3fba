package cri

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// containerd frees the data of what was removed by collections of its own. The removal of an
// image waits for one; after that of a container it comes when 2 % of the time were
// collections (gc/scheduler, pause_threshold): after one of 20 ms a second later, on a slow
// disk many. CRI has no way to ask for one; containerd's own API, at the same socket, collects
// when a lease is given up and that is to be waited for.
const (
	leases  = "/containerd.services.leases.v1.Leases/"
	leaseID = "ebpf-evict"
	// collectWithin bounds a collection, which removes the layers.
	collectWithin = 5 * time.Second
)

// collect has containerd free what was removed; nil when it has. Other runtimes don't know
// what they are asked, and need not.
func (c *Client) collect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, collectWithin)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "containerd-namespace", "k8s.io")
	id := append([]byte{1<<3 | 2, byte(len(leaseID))}, leaseID...) // string id = 1
	err := c.conn.Invoke(ctx, leases+"Create", message(id), new(emptypb.Empty))
	if err == nil || status.Code(err) == codes.AlreadyExists { // of one that was killed at it
		err = c.conn.Invoke(ctx, leases+"Delete", message(append(id, 2<<3, 1)), new(emptypb.Empty)) // bool sync = 2
	}
	if err != nil {
		return fmt.Errorf("have what was removed collected: %w", err)
	}
	return nil
}

// message has these fields, as protobuf writes them, and needs no type of its own.
func message(fields []byte) *emptypb.Empty {
	m := new(emptypb.Empty)
	m.ProtoReflect().SetUnknown(fields)
	return m
}
