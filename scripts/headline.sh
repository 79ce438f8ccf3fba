#!/usr/bin/env bash
# headline.sh FILE.json: writes the README's table of figures, between its markers, from a
# report's JSON (needs jq).
set -euo pipefail
cd "$(dirname "$0")/.."

table=$(jq -r '
def us: if . == null then "–" elif . < 1000000 then "\(. / 1000 | round) µs" elif . < 1000000000 then "\(. / 100000 | round / 10) ms" else "\(. / 100000000 | round / 10) s" end;
def bytes: if . == null then "–" elif . < 1048576 then "\(. / 1024 | round) KiB" else "\(. / 104857.6 | round / 10) MiB" end;
def pct: ((. - 1) * 10000 | round / 100 | tostring) + " %";
def row: "| \(.tool)\(if .scenario != "idle" then ", " + .scenario else "" end)\(if (.fill // "4k") != "4k" then ", " + .fill else "" end) | \(.rounds) | \(.missed) | \(.wrongVictims) | \(.crossedToSignalledNs.p50 | us) | \(.crossedToSignalledNs.p99 | us) | \(.crossedToDeadNs.p50 | us) | \(.overshootBytes.p50 | bytes) |";
(.latency[0] | "Linux \(.kernel), \(.cpus) CPUs (\(.cpu)), cgroup \(.cgroup), \(.date[:10]). Hogs fill as fast as they can.\n"),
"| who, what else goes on | rounds | missed | wrong | SIGKILL p50 | p99 | dead p50 | overshoot p50 |",
"| --- | --: | --: | --: | --: | --: | --: | --: |",
([.latency[].runs[] | select(.rateBytes == 0)] | sort_by(.tool != "ebpf-evict") | .[] | row),
(if .overhead then "\nCPU time of others: " + ([.overhead[].runs[] | "\(.work), \(.state): \(.ratio.median | pct) (noise \(.baseline.median | pct))"] | join("; ")) + "." else empty end)
' "$1")

TABLE=$table SOURCE=${1%.json} awk '
/<!-- bench:begin -->/ { print; print ENVIRON["TABLE"]; print ""; print "All of it, with plots and raw rounds: [" ENVIRON["SOURCE"] ".html](" ENVIRON["SOURCE"] ".html)."; skip = 1 }
/<!-- bench:end -->/ { skip = 0 }
!skip' README.md >README.md.new
mv README.md.new README.md
