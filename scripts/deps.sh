#!/usr/bin/env bash
# Installs the Debian packages that `make test`, `make lint` and `make generate`
# need and that are missing. Where it can't, it names them and exits 1.
set -euo pipefail

# program:package
needs=(
	clang-19:clang-19
	llvm-strip-19:llvm-19
	clang-format-19:clang-format-19
	bpftool:bpftool
	qemu-system-x86_64:qemu-system-x86
	dpkg-deb:dpkg
	shellcheck:shellcheck
	mkfs.ext4:e2fsprogs
	mkfs.xfs:xfsprogs
	mkfs.btrfs:btrfs-progs
	git:git
	make:make
)

# bpftool and mkfs lie in /usr/sbin, which a user's PATH may lack.
PATH=$PATH:/usr/sbin:/sbin

missing=()
for need in "${needs[@]}"; do
	command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
done
# Headers, not a program: bpf/bpf_helpers.h.
[ -e /usr/include/bpf/bpf_helpers.h ] || missing+=(libbpf-dev)
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
	echo "error: missing packages (Debian names): ${missing[*]}" >&2
	echo "install them, or run this as root on Debian 12 or newer" >&2
	exit 1
fi

echo "installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { apt-get -q update && apt-get -qy -o Dpkg::Use-Pty=0 install --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null; then
	tail -n 20 "$log" >&2
	exit 1
fi
