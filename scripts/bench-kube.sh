#!/usr/bin/env bash
# bench-kube.sh [ROUNDS]: has the kubelet, by polling and by kernelMemcgNotification, and then
# the agent evict the same pod on the node of test/kube, and writes all rounds to
# docs/bench/kube-<kernel>.json and the README's second table. Leave the machine
# alone meanwhile: about 25 minutes for five rounds (and one more of each, which warms up).
set -euo pipefail
cd "$(dirname "$0")/.."
command -v jq >/dev/null || {
	echo "error: jq is needed for the README's table" >&2
	exit 1
}

falls=$(mktemp)
trap 'rm -f "$falls"' EXIT
EBPF_EVICT_KUBE_FALLS=$falls KUBE_FLAGS="-run ^\$ -bench SideBySide -benchtime ${1:-5}x -timeout 90m" make test-kube

raw=docs/bench/kube-$(uname -r).json
jq -s --arg kernel "$(uname -r)" --arg date "$(date -u +%F)" --argjson cpus "$(nproc)" \
	--arg cpu "$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1)" \
	--arg kubernetes "$(cd test/kube/bins && go list -m -f '{{.Version}}' k8s.io/kubernetes)" \
	'{kernel: $kernel, cpus: $cpus, cpu: $cpu, date: $date, kubernetes: $kubernetes, rounds: .}' "$falls" >"$raw"
scripts/headline-kube.sh "$raw"
