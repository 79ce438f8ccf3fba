#!/usr/bin/env bash
# Fails when docs/ names a test that does not exist.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=0
while read -r name; do
	if ! grep -rqE "^func $name\(" --include='*_test.go' cmd pkg test; then
		echo "docs/ names $name, which is no test" >&2
		missing=1
	fi
done < <(grep -ohE '\b(Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9]+' docs/*.md | sort -u)
exit "$missing"
