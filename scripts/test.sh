#!/usr/bin/env bash
# test.sh unit: every package outside ROOT_PKGS, as whoever calls, but deploy/helm
#               (scripts/check-deploy.sh).
# test.sh root: the packages of ROOT_PKGS that exist, as root, one at a time, since
#               their tests watch and load the whole machine.
# test.sh disk: test/disk, as root, and before it the program of its images.
# test.sh kube: test/kube likewise, and before it the cluster, the image, and helm for the chart.
#               KUBE_FLAGS go to `go test`.
set -euo pipefail
cd "$(dirname "$0")/.."

root_pkgs=()
# shellcheck disable=SC2153 # ROOT_PKGS comes from the Makefile
for pkg in $ROOT_PKGS; do
	compgen -G "$pkg/*_test.go" >/dev/null && root_pkgs+=("$pkg")
done
if [ ${#root_pkgs[@]} -eq 0 ]; then
	echo "error: none of these has tests: $ROOT_PKGS" >&2
	exit 1
fi

case ${1:-} in
unit)
	mapfile -t pkgs < <(go list ./... | grep -vxF "$(go list "${root_pkgs[@]}" ./test/disk ./test/kube ./deploy/helm)")
	go test "${pkgs[@]}"
	;;
root)
	scripts/as-root.sh true
	go test -count=1 -p 1 -timeout 15m -exec "$PWD/scripts/as-root.sh" "${root_pkgs[@]}"
	;;
disk)
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w' -o bin/disk-writer ./test/disk/writer
	scripts/as-root.sh true
	go test -count=1 -timeout 15m -exec "$PWD/scripts/as-root.sh" ./test/disk
	;;
kube)
	scripts/kube-bins.sh
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w' -o bin/kube/load ./test/kube/load
	go run ./deploy/image -o bin/kube/image.tar -name localhost/ebpf-evict:bed "$(go env GOARCH)=bin/ebpf-evict"
	EBPF_EVICT_HELM=$PWD/$(scripts/helm.sh)
	export EBPF_EVICT_HELM
	scripts/as-root.sh true
	# shellcheck disable=SC2086 # several flags
	go test -count=1 -timeout 30m -exec "$PWD/scripts/as-root.sh" ./test/kube ${KUBE_FLAGS:-}
	;;
*)
	echo "usage: test.sh unit|root|disk|kube" >&2
	exit 2
	;;
esac
