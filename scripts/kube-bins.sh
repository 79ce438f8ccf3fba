#!/usr/bin/env bash
# Builds the cluster of test/kube from test/kube/bins/go.mod into bin/kube/: etcd, the API
# server, the controller manager, the scheduler and the kubelet. With an empty build cache it
# takes 510 s of CPU time (a shared AMD EPYC), 3 GB of module cache and 3 GB of build cache; what
# is there and of these versions is not built again.
set -euo pipefail
cd "$(dirname "$0")/../test/kube/bins"

out=$PWD/../../../bin/kube
stamp=$(cat go.mod go.sum ../../../scripts/kube-bins.sh <(go env GOVERSION) | sha256sum)
if [ "$(cat "$out/.built" 2>/dev/null)" = "$stamp" ]; then
	exit 0
fi
rm -f "$out/.built"
mkdir -p "$out"

version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
# What the node tells of itself; without it, v0.0.0-master.
v=k8s.io/component-base/version
ldflags="-s -w -X $v.gitVersion=$version -X $v.gitMajor=1 -X $v.gitMinor=$(cut -d. -f2 <<<"$version")"

# All at once: one waits for a compiler while another links.
start=$SECONDS
CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "$ldflags" -o "$out/" \
	go.etcd.io/etcd/server/v3 \
	k8s.io/kubernetes/cmd/{kubelet,kube-apiserver,kube-scheduler,kube-controller-manager}
mv "$out/server" "$out/etcd"
echo "built the cluster in $((SECONDS - start)) s"
echo "$stamp" >"$out/.built"
