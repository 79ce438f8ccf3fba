#!/usr/bin/env bash
# at-once.sh COMMAND...: runs shell commands at the same time and shows what each has said
# when it ends, whole, with the time that it took. Fails if one of them does.
set -euo pipefail
cd "$(dirname "$0")/.."

dir=$(mktemp -d)
# What is left of the commands ends with an interrupted run.
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM
declare -A of=()
for command in "$@"; do
	log=$dir/${#of[@]}
	bash -c "$command" >"$log" 2>&1 </dev/null &
	of[$!]=$log
	echo "==> $command: started" | tee "$log.name"
done

failed=0
while [ ${#of[@]} -gt 0 ]; do
	code=0
	wait -n -p ended "${!of[@]}" || code=$?
	log=${of[$ended]}
	unset "of[$ended]"
	cat "$log"
	echo "$(sed 's/: started$//' "$log.name"): exit code $code after $SECONDS s"
	[ "$code" -eq 0 ] || failed=1
done
exit "$failed"
