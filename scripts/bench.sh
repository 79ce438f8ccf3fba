#!/usr/bin/env bash
# Measures everything on this machine and writes docs/bench/<kernel>.json, the page beside
# it and the table in the README. Takes about half an hour; leave the machine alone.
# earlyoom and nohang take part when they are in PATH (NOHANG_CONF names the latter's
# configuration when it is not in /etc): fetch-peers.sh unpacks Debian's packages without
# starting their services. BENCH_PREFIX is put before each measurement, such as "flock FILE".
set -euo pipefail
cd "$(dirname "$0")/.."

rounds=${ROUNDS:-300} peer_rounds=${PEER_ROUNDS:-30} pairs=${PAIRS:-20}
work=bin/bench
mkdir -p "$work" docs/bench

peers=bin/peers
if [ -d "$peers" ]; then
	export PATH=$PATH:$PWD/$peers/usr/bin:$PWD/$peers/usr/sbin NOHANG_CONF=$PWD/$peers/etc/nohang/nohang.conf
fi

# measure NAME ARGS…: a measurement that is there is kept, so that a run can go on.
measure() {
	local name=$1
	shift
	[ -s "$work/$name.json" ] && return
	echo "== $name" >&2
	# shellcheck disable=SC2086 # BENCH_PREFIX is words
	${BENCH_PREFIX:-} scripts/as-root.sh "$PWD/bin/ebpf-evict" bench "$@" --quiet -o json >"$work/$name.part"
	mv "$work/$name.part" "$work/$name.json"
}

tools=ebpf-evict,earlyoom,nohang,kernel-oom,poller10s
for rate in max 1Gi 256Mi; do
	measure "peers-$rate" latency --rounds "$peer_rounds" --tool "$tools" --rate "$rate"
done
for scenario in spinners idle hogs forkbomb; do
	measure "$scenario" latency --rounds "$rounds" --scenario "$scenario"
done
measure stalled latency --rounds 10 --scenario stalled
for fill in thp tmpfs populate; do
	measure "$fill" latency --rounds "$((rounds / 3))" --fill "$fill"
done
for w in fault fork thread compile; do
	measure "overhead-$w" overhead --work "$w" --state far,near --pairs "$pairs"
done
for n in 100 1000 5000 10000; do
	measure "scale-$n" scale --workloads "$n"
done

name=docs/bench/$(uname -r)
bin/ebpf-evict bench report "$work"/*.json --out "$name.html"
scripts/headline.sh "$name.json"
