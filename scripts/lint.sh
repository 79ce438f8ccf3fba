#!/usr/bin/env bash
# Runs the linters. golangci-lint is built once, at its pinned version, into bin/tools.
set -euo pipefail
cd "$(dirname "$0")/.."

linter=bin/tools/golangci-lint-$GOLANGCI_LINT
if [ ! -x "$linter" ]; then
	echo "building golangci-lint $GOLANGCI_LINT (minutes, once)"
	CGO_ENABLED=0 GOBIN=$PWD/bin/tools GOFLAGS=-buildvcs=false \
		go install -ldflags='-s -w' "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$GOLANGCI_LINT"
	mv bin/tools/golangci-lint "$linter"
fi
"$linter" run ./...

scripts/docs.sh

find bpf -name '*.[ch]' ! -name 'vmlinux*.h' -exec "$CLANG_FORMAT" --dry-run -Werror {} +

if command -v shellcheck >/dev/null; then
	shellcheck scripts/*.sh .ci/run test/systemd/*.sh
else
	echo "shellcheck is not installed: scripts are not checked"
fi

if command -v ruby >/dev/null; then
	ruby -c Vagrantfile >/dev/null
	ruby scripts/vagrantfile.rb
else
	echo "ruby is not installed: the Vagrantfile is not checked"
fi
