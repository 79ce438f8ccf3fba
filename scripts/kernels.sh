#!/usr/bin/env bash
# Has `check -o json` run on every kernel of test/vm and on this machine, and makes
# docs/kernels.md of what it said. KERNELS names some of them: those that were asked before
# are taken from bin/kernels.
set -euo pipefail
cd "$(dirname "$0")/.."

all=(5.10 6.1 6.12 6.18 newest)
dir=bin/kernels
mkdir -p "$dir"
go build -buildvcs=false -o bin/tools/vm ./test/vm
for kernel in ${KERNELS-${all[*]}}; do
	rm -f "$dir/$kernel.json"
	# It ends with 1 where check ends with 3: what counts is that there is an answer.
	bin/tools/vm -kernel "$kernel" -bin bin/ebpf-evict -exec 'check -o json' -out "$dir/$kernel.json" || test -s "$dir/$kernel.json"
done
code=0
scripts/as-root.sh bin/ebpf-evict check -o json >"$dir/native.json" || code=$?
test "$code" -eq 0 -o "$code" -eq 3

files=()
for kernel in "${all[@]}" native; do
	test -s "$dir/$kernel.json" && files+=("$dir/$kernel.json")
done
go run ./test/kernels "${files[@]}" >"$dir/kernels.md"
mv "$dir/kernels.md" docs/kernels.md
