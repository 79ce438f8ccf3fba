#!/usr/bin/env bash
# bench-walk.sh [ROUNDS [TURNS [FILES]]]: does a walk over a disk delay a kill for memory? Plays ROUNDS
# of `bench latency` in each of TURNS, in turn with and without `ebpf-evict disk --once` beside it, again
# and again over a tree of FILES: without the rests that `disk` takes, so it walks all the time. Prints
# the time from the crossing to SIGKILL of both. As root, with jq; leave the machine alone meanwhile.
# BENCH_PREFIX is put before the measuring, such as "flock FILE".
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-30} turns=${2:-4} files=${3:-1000000}
[ "$(id -u)" = 0 ] || {
	echo "error: needs root" >&2
	exit 1
}

if [ -z "${WALK_DIR:-}" ]; then
	WALK_DIR=$(mktemp -d)
	export WALK_DIR
	walked=/ebpf-evict-walk-$$
	mapfile -t mounts < <(awk '$3 ~ /^cgroup/ {print $2}' /proc/self/mounts)
	# shellcheck disable=SC2317 # a trap calls it
	clean() {
		for m in "${mounts[@]}"; do rmdir "$m$walked/unit" "$m$walked" 2>/dev/null || true; done
		rm -rf "$WALK_DIR"
	}
	trap clean EXIT
	for m in "${mounts[@]}"; do mkdir -p "$m$walked/unit" 2>/dev/null || true; done
	printf 'roots: [%s]\ndiskDirectories: {"%s/unit": ["%s/tree"]}\n' "$walked" "$walked" "$WALK_DIR" >"$WALK_DIR/config.yaml"
	echo "making $files files" >&2
	for d in $(seq $((files / 1000))); do
		mkdir -p "$WALK_DIR/tree/$((d % 32))/$d"
		(cd "$WALK_DIR/tree/$((d % 32))/$d" && seq 1000 | xargs touch)
	done
	# shellcheck disable=SC2086 # BENCH_PREFIX is words
	${BENCH_PREFIX:-} "$0" "$rounds" "$turns" "$files"
	exit
fi

walk() {
	while [ -e "$WALK_DIR/walking" ]; do
		bin/ebpf-evict disk --once --config "$WALK_DIR/config.yaml" --log-level error >"$WALK_DIR/walk.json"
		echo >>"$WALK_DIR/walks"
	done
}

: >"$WALK_DIR/walks"
for turn in $(seq "$turns"); do
	bin/ebpf-evict bench latency --rounds "$rounds" --quiet -o json >"$WALK_DIR/without-$turn.json"
	touch "$WALK_DIR/walking"
	walk &
	bin/ebpf-evict bench latency --rounds "$rounds" --quiet -o json >"$WALK_DIR/with-$turn.json" || failed=yes
	rm "$WALK_DIR/walking"
	wait
	[ -z "${failed:-}" ]
done
echo "$(wc -l <"$WALK_DIR/walks") walks over $(jq '.workloads[0].inodes.localVolumes' "$WALK_DIR/walk.json" 2>/dev/null || echo "$files") files"
for how in without with; do
	jq -rs --arg how "$how" '[.[].runs[].raw[] | select(.disturbed | not)] as $all
		| [$all[].crossedToSignalledNs | numbers] | sort | length as $n
		| def q(p): .[[($n * p | ceil) - 1, 0] | max] / 1000 | floor;
		"\($how) a walk: \($n) kills of \($all | length) rounds, crossed to SIGKILL in µs: p50 \(q(0.5)), p90 \(q(0.9)), p99 \(q(0.99)), max \(q(1))"' \
		"$WALK_DIR/$how"-*.json
done
