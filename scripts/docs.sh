#!/usr/bin/env bash
# Fails when docs/ names a test that does not exist.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=0
for name in $(grep -ohE '`(Test|Fuzz|Benchmark)[A-Za-z0-9]+`' docs/*.md | tr -d '`' | sort -u); do
	if ! grep -rqE "^func $name\(" --include='*_test.go' cmd pkg test; then
		echo "docs/ names $name, which is no test" >&2
		missing=1
	fi
done
exit "$missing"
