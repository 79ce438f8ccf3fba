#!/usr/bin/env bash
# Prints the path of helm at its pinned version, which it builds from its module, once.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck disable=SC2153 # HELM comes from the Makefile
helm=bin/tools/helm-$HELM
if [ ! -x "$helm" ]; then
	echo "building helm $HELM (minutes, once)" >&2
	CGO_ENABLED=0 GOBIN=$PWD/bin/tools GOFLAGS=-buildvcs=false \
		go install -ldflags='-s -w' "helm.sh/helm/v3/cmd/helm@$HELM"
	mv bin/tools/helm "$helm"
fi
echo "$helm"
