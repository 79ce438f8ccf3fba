#!/usr/bin/env bash
# Regenerates gen/ and fails if that changes, adds or removes a file.
# Compares with the files as they were, so it also works outside a git clone.
set -euo pipefail
cd "$(dirname "$0")/.."

before=$(mktemp -d)
trap 'rm -rf "$before"' EXIT
cp -a gen/. "$before"

find gen -type f ! -name gen.go -delete
go generate ./gen
if ! diff -r "$before" gen; then
	echo "error: gen/ is not what bpf/ generates: run 'make generate' and commit gen/" >&2
	exit 1
fi
