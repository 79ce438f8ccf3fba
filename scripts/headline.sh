#!/usr/bin/env bash
# headline.sh FILE.json [README]: writes the README's table of figures, between its markers,
# from a report's JSON (needs jq).
set -euo pipefail
cd "$(dirname "$0")/.."
readme=${2:-README.md}

table=$(jq -r '
def us: if . == null then "–" elif . < 1000000 then "\(. / 1000 | round) µs" elif . < 1000000000 then "\(. / 100000 | round / 10) ms" else "\(. / 100000000 | round / 10) s" end;
def bytes: if . == null then "–" elif . < 1048576 then "\(. / 1024 | round) KiB" else "\(. / 104857.6 | round / 10) MiB" end;
def pct: ((. - 1) * 1000 | round / 10 + 0 | tostring | sub("^-0$"; "0")) + " %";
def ours: startswith("ebpf-evict");
def times: if . < 10 then . * 10 | round / 10 else round end | "\(.)×";
def row: "| \(.tool)\(if .tier then " by " + .tier else "" end)\(.beside // "")\(if .scenario != "idle" then ", " + .scenario else "" end)\(if (.fill // "4k") != "4k" then ", " + .fill else "" end) | \(.rounds) | \(.missed) | \(.wrongVictims) | \(.disturbed) | \(.crossedToSignalledNs.p50 | us) | \(.crossedToSignalledNs.p99 | us) | \(.crossedToDeadNs.p50 | us) | \(.overshootBytes.p50 | bytes) |";
(.latency[0] | "Linux \(.kernel), \(.cpus) CPUs (\(.cpu)), cgroup \(.cgroup), \(.date[:10]). Hogs fill as fast as they can.\n"),
"| who, what else goes on | rounds | missed | wrong | disturbed | SIGKILL p50 | p99 | dead p50 | overshoot p50 |",
"| --- | --: | --: | --: | --: | --: | --: | --: | --: |",
([.latency[] | any(.runs[]; .tool | ours | not) as $peers | .runs[] | select(.rateBytes == 0 and .rounds > 0 and .scenario != "memoryback")
  | if $peers and (.tool | ours) then .beside = ", beside the peers" else . end]
  | sort_by(.beside == null and (.tool | ours | not), .tool == "ebpf-evict-kernel-first", .tier != null, .beside != null, .scenario != "idle") | .[] | row),
([.latency[] | (.runs[] | select(.tool == "ebpf-evict" and .scenario == "idle" and .fill == "4k" and .rateBytes == 0)) as $us | .runs[]
  | select(.scenario == "idle" and .fill == "4k" and .rateBytes == 0 and (.tool | ours | not)) | select(.outside.crossedToSignalledNs and $us.outside.crossedToSignalledNs)
  | "\(.tool) \(.outside.crossedToSignalledNs.p50 / $us.outside.crossedToSignalledNs.p50 | times)"]
  | if length > 0 then "\nBehind in the same run, by the same yardstick (p50): " + join(", ") + "." else empty end),
(.latency[].memoryBack[]? | "\nMemory of a 1 GiB victim beside 4 spinners is back \(.p50 | times) sooner (p50) than with kill(2) alone."),
(if .overhead then "\nCPU time of others: " + ([.overhead[].runs[] | "\(.work), \(.state): \(.ratio.median | pct) (noise \(.baseline.median | pct))"] | join("; ")) + "." else empty end),
(if .scale then "\nWith many units: " + ([.scale[].points[] | "\(.workloads): SIGKILL \(.crossedToSignalledNs.p50 | us) (p50), \(.crossedToSignalledNs.p99 | us) (p99), agent \(.rssBytes | bytes) resident, \(.cpuPercent * 10 | round / 10) % of a CPU idle"] | join("; ")) + "." else empty end)
' "$1")

TABLE=$table SOURCE=${1%.json} awk '
/<!-- bench:begin -->/ { print; print ENVIRON["TABLE"]; print ""; print "All of it, with plots and raw rounds: [" ENVIRON["SOURCE"] ".html](" ENVIRON["SOURCE"] ".html)."; skip = 1 }
/<!-- bench:end -->/ { skip = 0 }
!skip' "$readme" >"$readme.new"
mv "$readme.new" "$readme"
