#!/usr/bin/env bash
# How long a former primary with diverged data takes to become a replica again: rewound, as a rejoin does by itself from
# 1 GiB on, and copied anew, on one stack with the same data. The primary writes rows that nobody else gets (a hundredth of
# all) and is killed; after it was rewound it is stopped and copied. Prints milliseconds until rows arrive on it again.
#
#   scripts/bench-rejoin.sh [MIB]        (1200)
# Takes its stack down. Needs free disk of about five times the data.
set -euo pipefail
cd "$(dirname "$0")/.."

mib=${1:-1200}
stack=bench-rejoin
provisioner=${PROVISIONER:-target/release/provisioner}
manifest=manifests/.$stack.yaml
[ -x "$provisioner" ] || { echo "found no program $provisioner: cargo build --release -p provisioner" >&2; exit 1; }

call() { "$provisioner" "$1" --file "$manifest" --name "$stack" "${@:2}"; }
clean() {
    call down --volumes --yes --progress quiet > /dev/null || true
    rm -f "$manifest"
}
trap clean EXIT
trap 'exit 130' INT TERM

# One replica that writes wait for while it is there: the other member is primary meanwhile, and writes go on.
cat > "$manifest" << END
name: $stack
environment: dev
postgres: {replicas: 1, synchronous: preferred, memory: 512MiB, cpus: 2, settings: {max_wal_size: 4GB}}
app: {binary: ../target/x86_64-unknown-linux-musl/debug/app}
END

sql() { docker exec "$stack-$1" psql -U postgres -XAtqc "$2"; }

# Milliseconds from the first step of a rejoin to the proof that rows arrive, of the events on stdin.
rejoin_ms() {
    jq -nrR '[inputs | fromjson? | select(type == "object")] as $events
        | [range($events | length) as $at | $events[$at] | select(.type == "step_started")
            | select(.text | test("postgres.rejoin|start workload postgres-")) | {id, at: $at}]
        | map(. as $step | [$events[$step.at:][] | select(.type == "step_finished" and .id == $step.id)][0].took_ms) | add'
}

call up postgres route --http-port auto --no-verify --progress quiet > /dev/null
sql postgres-1 'CREATE TABLE filling (number int, text text)'
sql postgres-1 "INSERT INTO filling SELECT n, repeat(md5(n::text), 30) FROM generate_series(1, $mib * 1000) AS n"
old=postgres-1
# A rewind reads the old primary's WAL back to the last checkpoint before they part: one more would let go of that.
# Without the VACUUM the update's scan would mark every row as seen, and so write and later fetch every page.
sql "$old" 'VACUUM filling'
sql "$old" CHECKPOINT
size=$(sql "$old" "SELECT pg_size_pretty(sum(pg_database_size(oid))) FROM pg_database")
senders=$(sql "$old" "SELECT string_agg(pid::text, ' ') FROM pg_stat_replication")
# shellcheck disable=SC2086 # one word a process
docker exec "$stack-$old" kill -STOP $senders
docker exec "$stack-$old" psql -U postgres -XAtqc 'SET synchronous_commit = local' \
    -c 'UPDATE filling SET number = -number WHERE number % 100 = 0'
docker kill "$stack-$old" > /dev/null
events=$(call failover --http-port auto --progress json 2>&1 > /dev/null)
grep -q "$old was rewound" <<< "$events" || { echo "$events" >&2; echo "$old was not rewound" >&2; exit 1; }
rewind=$(rejoin_ms <<< "$events")
call stop "$old" --http-port auto --progress quiet > /dev/null
events=$(call rejoin "$old" --method clone --http-port auto --progress json 2>&1 > /dev/null)
grep -q "$old was copied anew" <<< "$events" || { echo "$events" >&2; echo "$old was not copied" >&2; exit 1; }
clone=$(rejoin_ms <<< "$events")
echo "data $size, rewind $rewind ms, clone $clone ms"
