#!/usr/bin/env bash
# headline-kube.sh FILE.json: writes the README's second table, between its markers, from the rounds
# of bench-kube.sh (needs jq).
set -euo pipefail
cd "$(dirname "$0")/.."

table=$(jq -r '
def ms: if . < 10 then "\(. * 100 | round / 100) ms" elif . < 1000 then "\(round) ms" else "\(. / 100 | round / 10) s" end;
def mib: "\(. * 10 | round / 10) MiB";
def median: sort | (.[(length - 1) / 2 | floor] + .[length / 2 | floor]) / 2;
def times: if . < 10 then . * 10 | round / 10 else round end | "\(.)×";
def groups(by): reduce .[] as $r ([]; if any(.[]; .[0] | by == ($r | by)) then map(if (.[0] | by) == ($r | by) then . + [$r] else . end) else . + [[$r]] end);
def figures: {party: .[0].party, load: .[0].load, rounds: length, signal: map(.crossedToSignalledMs), dead: map(.crossedToDeadMs), over: map(.overshootMiB), innocents: map(.innocents)};
[.rounds | groups([.party, .load]) | .[] | figures] as $all |
"Linux \(.kernel), \(.cpus) CPUs (\(.cpu)), cgroup v1, kubelet \(.kubernetes), \(.date). Median (max) of \($all[0].rounds) rounds each; the threshold is 1 GiB of the 2 GiB that all pods may use.\n",
"| who evicts | the hog | signalled after the crossing | dead | below the threshold | innocents first |",
"| --- | --- | --: | --: | --: | --: |",
($all[] | "| \(.party) | \(.load) | \(.signal | median | ms) (\(.signal | max | ms)) | \(.dead | median | ms) (\(.dead | max | ms)) | \(.over | median | mib) (\(.over | max | mib)) | \(.innocents | add) in \(.innocents | map(select(. > 0)) | length) of \(.rounds) rounds |"),
"",
($all[] | select(.party == "ebpf-evict")) as $us | $all[] | select(.party != "ebpf-evict" and .load == $us.load)
  | "- \(.load): \(.party) signals \((.signal | median) / ($us.signal | median) | times) later, and the hog is dead \((.dead | median) / ($us.dead | median) | times) later."
' "$1")

TABLE=$table SOURCE=$1 awk '
/<!-- bench-kube:begin -->/ { print; print ENVIRON["TABLE"]; print ""; print "Each round: [" ENVIRON["SOURCE"] "](" ENVIRON["SOURCE"] ")."; skip = 1 }
/<!-- bench-kube:end -->/ { skip = 0 }
!skip' README.md >README.md.new
mv README.md.new README.md
