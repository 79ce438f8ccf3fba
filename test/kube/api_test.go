package kube

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// api speaks to one server, the API server or the kubelet, for one account.
type api struct {
	client *http.Client
	server string
	token  string
}

func newAPI(server string, ca []byte, token string) (*api, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, errors.New("no certificate of the API server's issuer")
	}
	return &api{server: server, token: token, client: &http.Client{
		Timeout:   patience,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true},
	}}, nil
}

// refused is an answer that is no success.
type refused struct {
	Code int
	Body string
}

func (r *refused) Error() string { return fmt.Sprintf("%d: %s", r.Code, r.Body) }

func (a *api) call(method, path string, body any) ([]byte, error) {
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	q, err := http.NewRequest(method, a.server+path, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	q.Header.Set("Authorization", "Bearer "+a.token)
	q.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		q.Header.Set("Content-Type", "application/strategic-merge-patch+json")
	}
	answer, err := a.client.Do(q)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	out, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode/100 != 2 {
		err = &refused{answer.StatusCode, string(out)}
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return out, nil
}

func (a *api) get(path string, into any) error {
	data, err := a.call(http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

func (a *api) has(path string) bool {
	_, err := a.call(http.MethodGet, path, nil)
	return err == nil
}

// create posts an object and reads back what became of it.
func (a *api) create(path string, object any) error {
	data, err := a.call(http.MethodPost, path, object)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, object)
}

// remove deletes an object, and has the garbage collector delete what it owns; one that is not
// there is removed.
func (a *api) remove(path string, grace time.Duration) error {
	_, err := a.call(http.MethodDelete, path, map[string]any{
		"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": int64(grace / time.Second),
		"propagationPolicy": "Background", // a Job's pods would be orphans
	})
	if r := new(refused); errors.As(err, &r) && r.Code == http.StatusNotFound {
		return nil
	}
	return err
}
