#!/usr/bin/env bash
# as-root.sh COMMAND [ARGUMENT...]: runs the command as root, by sudo where needed.
# Also the -exec of `go test`, so that compilers and caches stay the user's.
set -euo pipefail

if [ "$(id -u)" -eq 0 ]; then
	exec "$@"
fi
if command -v sudo >/dev/null; then
	exec sudo --preserve-env=EBPF_EVICT_BIN,EBPF_EVICT_HELM,EBPF_EVICT_KUBE_FALLS,EBPF_EVICT_KUBE_LOGS,EBPF_EVICT_KUBE_ROUNDS,NOHANG_CONF -- env "PATH=$PATH" "$@"
fi
echo "error: $1 needs root and there is no sudo: run the same command as root" >&2
exit 1
