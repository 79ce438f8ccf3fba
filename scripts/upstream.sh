#!/usr/bin/env bash
# Runs a go command of test/upstream with its _eviction/ built into the kubelet's package:
# scripts/upstream.sh run . generate rank, scripts/upstream.sh test ./...
# Needs the modules of test/upstream/go.mod (a Go proxy, once).
# The go command overlays no file of a module in its cache, so the cached module is
# presented as a local one, through a link.
set -euo pipefail
cd "$(dirname "$0")/../test/upstream"

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
go mod download k8s.io/kubernetes
ln -s "$(go list -m -f '{{.Dir}}' k8s.io/kubernetes)" "$tmp/kubernetes"
cp go.mod go.sum "$tmp"
go mod edit -replace "k8s.io/kubernetes=$tmp/kubernetes" "$tmp/go.mod"
cat >"$tmp/overlay.json" <<JSON
{"Replace": {"$tmp/kubernetes/pkg/kubelet/eviction/oracle.go": "$PWD/_eviction/oracle.go"}}
JSON
go "$1" -trimpath -modfile "$tmp/go.mod" -overlay "$tmp/overlay.json" "${@:2}"
