package cri

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ErrUnavailable means that no runtime answered in time: no socket, nobody behind it, or one
// that hangs. The next call tries anew.
var ErrUnavailable = errors.New("container runtime unavailable")

const (
	// lookWithin bounds a call that reads, removeWithin one that removes: a layer of many
	// files takes its time. The caller's own deadline may be shorter.
	lookWithin   = 5 * time.Second
	removeWithin = 30 * time.Second
	// maxAnswer is the kubelet's own bound of an answer.
	maxAnswer = 16 << 20
	// A runtime that comes back is found within retryAtMost.
	retryAtLeast = 100 * time.Millisecond
	retryAtMost  = time.Second
)

// WellKnown are the sockets that are tried, in this order, when none is configured:
// containerd, CRI-O, k3s, k0s, cri-dockerd.
var WellKnown = []string{
	"/run/containerd/containerd.sock",
	"/run/crio/crio.sock",
	"/run/k3s/containerd/containerd.sock",
	"/run/k0s/containerd.sock",
	"/run/cri-dockerd.sock",
}

// ErrNone means that no endpoint was given and none of WellKnown is there: a host without
// containers, or before their runtime has started.
var ErrNone = errors.New("no container runtime: none of its well-known sockets is there")

// Client speaks to one container runtime. Goroutines may share it; one Reclaim at a time.
type Client struct {
	conn *grpc.ClientConn
	// socket is "" for the first of WellKnown.
	socket  string
	runtime runtime.RuntimeServiceClient
	images  runtime.ImageServiceClient

	mu sync.Mutex
	// statuses are what only ContainerStatus tells, by container id.
	statuses map[string]containerStatus
	// seen is when each image was first and last seen, by image id.
	seen map[string]sighting
}

// Dial makes a client of the runtime at endpoint (unix:///path or /path), "" for the first
// of WellKnown that exists. It connects when it is first used and again when the runtime
// was restarted; each call ends within seconds, whatever the runtime does. The error means
// that the endpoint is not of that form.
func Dial(endpoint string) (*Client, error) {
	socket := strings.TrimPrefix(endpoint, "unix://")
	if socket != "" && !filepath.IsAbs(socket) {
		return nil, fmt.Errorf("runtime endpoint %q: want unix:///path", endpoint)
	}
	conn, err := grpc.NewClient("passthrough:///"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"),
		grpc.WithNoProxy(),
		grpc.WithContextDialer(connect),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: retryAtLeast, Multiplier: 1.6, Jitter: 0.2, MaxDelay: retryAtMost},
			MinConnectTimeout: lookWithin,
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("runtime endpoint %q: %w", endpoint, err)
	}
	return &Client{
		conn:     conn,
		socket:   socket,
		runtime:  runtime.NewRuntimeServiceClient(conn),
		images:   runtime.NewImageServiceClient(conn),
		statuses: map[string]containerStatus{},
		seen:     map[string]sighting{},
	}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// connect opens the socket, or the first well-known one that is there now.
func connect(ctx context.Context, socket string) (net.Conn, error) {
	if socket == "" {
		socket = discover()
	}
	if socket == "" {
		return nil, ErrNone
	}
	return new(net.Dialer).DialContext(ctx, "unix", socket)
}

// isThere is ErrNone where there is nobody to ask.
func (c *Client) isThere() error {
	if c.socket == "" && discover() == "" {
		return ErrNone
	}
	return nil
}

func discover() string {
	for _, socket := range WellKnown {
		if s, err := os.Stat(socket); err == nil && s.Mode().Type() == os.ModeSocket {
			return socket
		}
	}
	return ""
}

// call asks the runtime one thing; what names it in the error.
func call[Request, Answer any](ctx context.Context, within time.Duration, what string,
	method func(context.Context, Request, ...grpc.CallOption) (Answer, error), r Request) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	answer, err := method(ctx, r)
	if err != nil {
		return answer, fmt.Errorf("%s: %w", what, told(err))
	}
	return answer, nil
}

// told marks the errors that mean that there is no runtime to talk to.
func told(err error) error {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded:
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}

// isGone reports whether the runtime does not know what it was asked about.
func isGone(err error) bool { return status.Code(err) == codes.NotFound }
