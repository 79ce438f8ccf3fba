#!/usr/bin/env bash
# bench.sh [quick]: measures everything on this machine and writes docs/bench/<kernel>.json,
# the page beside it and the table in the README. Leave the machine alone meanwhile: about
# 25 minutes on 2 CPUs, more where disturbed rounds are repeated. Each part's result stays in bin/bench/<version>/, so that a run
# that was broken off, or a part that failed, goes on from there; the parts that failed are
# named at the end, and then nothing outside of bin/ is written. `make clean` starts anew.
#
# quick: two rounds of each, to see that all of it runs: page and table stay in bin/.
#
# earlyoom and nohang take part, and Debian's packages of them are unpacked without starting
# their services (fetch-peers.sh) unless they are in PATH. BENCH_PREFIX is put before each
# measurement, such as "flock FILE".
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-} in
quick) quick=yes ;;
'') quick= ;;
*)
	echo "usage: bench.sh [quick]" >&2
	exit 2
	;;
esac
command -v jq >/dev/null || {
	echo "error: jq is needed for the README's table" >&2
	exit 1
}

version=$(bin/ebpf-evict version -o json | jq -r .version)
work=bin/bench/$version${quick:+-quick}
mkdir -p "$work"
failed=() parts=()

# rounds N: N, or 2 when quick.
rounds() { if [ -n "$quick" ]; then echo 2; else echo "$1"; fi; }

# measure NAME ARGS…: a part that is there is kept.
measure() {
	local name=$1 start=$SECONDS
	shift
	parts+=("$work/$name.json")
	[ -s "$work/$name.json" ] && return
	# shellcheck disable=SC2086 # BENCH_PREFIX is words
	if ${BENCH_PREFIX:-} scripts/as-root.sh "$PWD/bin/ebpf-evict" bench "$@" --quiet -o json >"$work/$name.part" 2> >(tail -n 5 >&2); then
		mv "$work/$name.part" "$work/$name.json"
		echo "$name: $((SECONDS - start)) s" >&2
	else
		failed+=("$name")
		unset 'parts[-1]'
		echo "$name: failed after $((SECONDS - start)) s" >&2
	fi
}

peers=$PWD/bin/peers
if ! { command -v earlyoom && command -v nohang; } >/dev/null && [ ! -d "$peers/usr" ]; then
	scripts/fetch-peers.sh >&2 || echo "earlyoom and nohang can't be had and are left out" >&2
fi
if [ -d "$peers/usr" ]; then
	export PATH=$PATH:$peers/usr/bin:$peers/usr/sbin NOHANG_CONF=$peers/etc/nohang/nohang.conf
fi

ours=ebpf-evict,ebpf-evict-kernel-first
all=ebpf-evict,earlyoom,nohang,kernel-oom,poller10s

measure spinners latency --scenario spinners --tool "$ours" --rounds "$(rounds 300)"
measure idle latency --scenario idle --tool "$ours" --rounds "$(rounds 300)"
measure hogs latency --scenario hogs --rounds "$(rounds 150)"
measure forkbomb latency --scenario forkbomb --rounds "$(rounds 150)"
measure stalled latency --scenario stalled --rounds "$(rounds 100)"
measure stalled-far latency --scenario stalled-far --rounds "$(rounds 50)"
measure memoryback latency --scenario memoryback --tool ebpf-evict,plain-kill --rounds "$(rounds 15)"
for fill in thp tmpfs populate; do
	measure "fill-$fill" latency --fill "$fill" --rounds "$(rounds 50)"
done
measure tiers latency --tier bpf-alloc,event,poll --rounds "$(rounds 40)"
measure peers-max latency --tool "$all" --rounds "$(rounds 30)"
for part in 128Mi:6 512Mi:10 1Gi:10; do
	measure "peers-${part%:*}" latency --tool "$all" --rate "${part%:*}" --rounds "$(rounds "${part#*:}")"
done
for part in fault:40 fork:40 thread:12 compile:12; do
	measure "overhead-${part%:*}" overhead --work "${part%:*}" --state far,near --pairs "$(rounds "${part#*:}")"
done
for part in 100:30 1000:30 5000:100 10000:30; do
	measure "scale-${part%:*}" scale --workloads "${part%:*}" --rounds "$(rounds "${part#*:}")"
done

page=docs/bench/$(uname -r) readme=README.md
if [ -n "$quick" ] || [ ${#failed[@]} -gt 0 ]; then
	page=$work/report/report readme=$work/report/README.md
	mkdir -p "$work/report"
	cp README.md "$readme"
fi
mkdir -p "$(dirname "$page")"
bin/ebpf-evict bench report "${parts[@]}" --out "$page.html"
scripts/headline.sh "$page.json" "$readme"
if [ ${#failed[@]} -gt 0 ]; then
	echo "error: failed: ${failed[*]}; what there is is in $page.html; run it again for these alone" >&2
	exit 1
fi
