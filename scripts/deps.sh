#!/usr/bin/env bash
# Installs the Debian packages that `make test`, `make lint`, `make generate`, `make bench` and
# `make test-systemd` need and that are missing. Where it can't, it names them and exits 1.
# deps.sh --go: Go as well, from Debian's backports where the release's own is too old to
# fetch the version that go.mod names.
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
	ruby:ruby
	jq:jq
	python3:python3
	systemd-analyze:systemd
	mkfs.ext4:e2fsprogs
	mkfs.xfs:xfsprogs
	mkfs.btrfs:btrfs-progs
	mmdebstrap:mmdebstrap
	containerd:containerd
	runc:runc
	git:git
	make:make
)
[ "${1:-}" != --go ] || needs+=(go:golang-go)
oldest_go=1.21 # the first that fetches another version

# bpftool and mkfs lie in /usr/sbin, which a user's PATH may lack.
PATH=$PATH:/usr/local/go/bin:/usr/sbin:/sbin

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

# logged COMMAND…: shows what the command said only if it failed.
logged() {
	if ! "$@" >"$log" 2>&1 </dev/null; then
		tail -n 20 "$log" >&2
		exit 1
	fi
}

install() {
	logged apt-get -qy -o Dpkg::Use-Pty=0 install --no-install-recommends "$@"
}

# install_go_of_backports adds the release's backports, from the mirror that apt has for it.
install_go_of_backports() {
	local codename uri
	codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
	# shellcheck disable=SC2016 # apt's own variable
	uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $codename" | head -n 1)
	echo "adding $codename-backports to apt's sources, for Go"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $codename-backports main" \
		>/etc/apt/sources.list.d/backports-for-go.list
	logged apt-get -q update
	install --target-release "$codename-backports" golang-go
}

logged apt-get -q update
if [[ " ${missing[*]} " == *" golang-go "* ]]; then
	candidate=$(apt-cache policy golang-go | awk '/Candidate:/ {print $2}')
	if dpkg --compare-versions "${candidate#*:}" lt "$oldest_go"; then
		install_go_of_backports
	fi
fi
install "${missing[@]}"
