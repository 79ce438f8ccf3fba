#!/usr/bin/env bash
# Makes test/upstream/testdata: generates the cases, has the kubelet's eviction manager
# answer them, packs both. The same sources give the same bytes.
set -euo pipefail
cd "$(dirname "$0")/.."

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
scripts/upstream.sh test .
scripts/upstream.sh build -o "$tmp/upstream" .
for kind in rank replay; do
	"$tmp/upstream" generate "$kind" | "$tmp/upstream" answer >"$tmp/$kind.jsonl"
	gzip -9n <"$tmp/$kind.jsonl" >"test/upstream/testdata/$kind.jsonl.gz"
done
