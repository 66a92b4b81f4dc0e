#!/usr/bin/env bash
# scripts/tier.sh NAME MINUTES COMMAND...: runs a tier of the tests and prints its time beside its budget.
set -euo pipefail

name=$1 budget=$(($2 * 60))
shift 2
printf '\n== %s (budget %s s)\n' "$name" "$budget"
begin=$SECONDS
status=0
"$@" || status=$?
took=$((SECONDS - begin))
over=''
if ((took > budget)); then over=', over budget'; fi
printf '== %s: %s s of %s s%s\n' "$name" "$took" "$budget" "$over"
exit "$status"
