#!/usr/bin/env bash
# bench-disk.sh [ROUNDS [FILE]]: measures on this machine, as root, with pods in a containerd of its own,
# what docs/disk.md promises, ROUNDS of each eviction (10), and writes FILE (docs/bench/disk.md): how late
# an emptyDir's limit and a full disk are noticed, what the disk process takes of a core with 200 pods
# (3 GB of memory, 10 minutes). BENCH_PREFIX is put before the measuring, such as "flock FILE".
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-10} page=${2:-docs/bench/disk.md}
out=$(mktemp)
trap 'rm -f "$out"' EXIT

CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w' -o bin/disk-writer ./test/disk/writer
go test -c -o bin/disk.test ./test/disk
measure() {
	# shellcheck disable=SC2086 # BENCH_PREFIX is words
	(cd test/disk && ${BENCH_PREFIX:-} ../../scripts/as-root.sh ../../bin/disk.test -test.run '^$' -test.timeout 1h "$@") | tee -a "$out" >&2
}
measure -test.bench 'EmptyDirAboveItsLimit|WhoFillsTheDisk' -test.benchtime "${rounds}x"
measure -test.bench WalkerOf200Pods -test.benchtime 1x

{
	echo "# Disk, measured"
	echo
	echo "Written by \`scripts/bench-disk.sh $rounds\` on $(date -u +%F): Linux $(uname -r), $(nproc) CPUs" \
		"($(awk -F ': ' '/model name/ {print $2; exit}' /proc/cpuinfo)), cgroup $(awk '$3 == "cgroup2" {v2 = 1} $3 == "cgroup" && $4 ~ /memory/ {v1 = 1} END {print v1 ? "v1" : v2 ? "v2" : "none"}' /proc/self/mounts)," \
		"ext4 in a file. What is counted: test/disk/bench_test.go."
	echo
	echo "| benchmark | rounds | figure | |"
	echo "|---|--:|---|--:|"
	awk '/^Benchmark/ {
		name = $1; sub(/^Benchmark/, "", name); sub(/-[0-9]+$/, "", name)
		for (i = 3; i < NF; i += 2) if ($(i + 1) != "ns/op") { unit = $(i + 1); gsub(/-/, " ", unit); print "| " name " | " $2 " | " unit " | " $i " |" }
	}' "$out"
} >"$page"
