#!/usr/bin/env bash
# Checks deploy/: alert rules, their scenes and the dashboard's expressions by promtool,
# systemd units by systemd-analyze, the chart by helm. promtool is unpacked from Debian's
# package where it is not installed (the package would start a server), helm built from its
# module, once.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p bin/tools

promtool=$(command -v promtool || echo bin/tools/promtool)
if [ ! -x "$promtool" ]; then
	scratch=$(mktemp -d)
	trap 'rm -rf "$scratch"' EXIT
	download=(apt-get -q -o APT::Sandbox::User=root download prometheus)
	(cd "$scratch" && { "${download[@]}" || { apt-get -q update && "${download[@]}"; }; }) >/dev/null
	dpkg-deb --fsys-tarfile "$scratch"/prometheus_*.deb | tar -xO ./usr/bin/promtool >"$scratch/promtool"
	install -m 755 "$scratch/promtool" "$promtool"
fi
"$promtool" check rules deploy/prometheus/rules.yaml
"$promtool" test rules deploy/prometheus/rules_test.yaml

# The dashboard's expressions are checked as rules would be, with Grafana's variables filled in.
# shellcheck disable=SC2016 # jq's and Grafana's own variables
jq '[.. | .expr? // empty | gsub("\\$__rate_interval"; "5m") | gsub("\\$instance"; ".*")]
	| {groups: [{name: "dashboard", rules: [to_entries[] | {record: "expr:\(.key)", expr: .value}]}]}' \
	deploy/grafana/ebpf-evict.json >bin/dashboard-rules.json
"$promtool" check rules bin/dashboard-rules.json

# The units name a program that is not installed here.
units=$(mktemp -d)
trap 'rm -rf "${scratch:-}" "$units"' EXIT
for unit in deploy/systemd/*.service; do
	sed "s|/usr/local/bin/ebpf-evict|$(command -v true)|" "$unit" >"$units/${unit##*/}"
done
# Unknown keys are warnings, and other units of the machine have some of their own.
systemd-analyze verify "$units"/*.service 2>&1 | tee "$units/said"
if grep -F "$units" "$units/said"; then
	exit 1
fi

helm=$(scripts/helm.sh)
"$helm" lint --strict --quiet --kube-version 1.34.0 deploy/helm/ebpf-evict
EBPF_EVICT_HELM=$PWD/$helm go test -count=1 ./deploy/helm
