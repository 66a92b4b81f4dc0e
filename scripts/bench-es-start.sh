#!/bin/sh
# How long three nodes of Elasticsearch take from `docker start` to one cluster that answers over TLS, with both compilers
# of Java and with the first one alone. Prints seconds and the processor's seconds of all three, which other work on the
# machine disturbs less.
#   scripts/bench-es-start.sh [RUNS]     (3)
#   IMAGE   an image of the recipe, default the newest one that is there
#   HEAP    384m
set -eu
RUNS=${1:-3}
HEAP=${HEAP:-384m}
IMAGE=${IMAGE:-$(docker images -q provisioner/elasticsearch | head -n 1)}
[ -n "$IMAGE" ] || { echo "no image provisioner/elasticsearch is there: provisioner up makes it" >&2; exit 1; }
NAME=bench-es
NODES="1 2 3"
LIMIT=300
work=$(mktemp -d)

clean() {
    for n in $NODES; do docker rm -fv "$NAME-$n" > /dev/null 2>&1 || true; done
    docker network rm "$NAME" > /dev/null 2>&1 || true
}
trap 'clean; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
clean
docker network create "$NAME" > /dev/null

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=$NAME" \
    -addext "subjectAltName=DNS:localhost,IP:127.0.0.1" \
    -keyout "$work/node.key" -out "$work/node.crt" 2> /dev/null
# As recipes/elasticsearch/node writes it: the salt's text and, in the digest, its bytes.
salt=$(printf bench-es- | base64)
printf 'admin:{SSHA256}%s%s\n' "$salt" "$(printf '%s' bench-onlybench-es- | openssl dgst -sha256 -binary | base64)" \
    > "$work/users"
echo 'superuser:admin' > "$work/users_roles"

configure() {
    mkdir -p "$work/$1/jvm.options.d" "$work/$1/tls"
    cat > "$work/$1/elasticsearch.yml" << END
cluster.name: $NAME
node.name: $NAME-$1
network.host: 0.0.0.0
discovery.seed_hosts: [$NAME-1, $NAME-2, $NAME-3]
cluster.initial_master_nodes: [$NAME-1, $NAME-2, $NAME-3]
node.store.allow_mmap: false
xpack.security.enabled: true
xpack.security.enrollment.enabled: false
xpack.security.authc.realms.file.users.order: 0
xpack.security.authc.realms.native.indexed.enabled: false
xpack.security.transport.ssl: {enabled: true, verification_mode: certificate, key: tls/node.key, certificate: tls/node.crt, certificate_authorities: [tls/node.crt]}
xpack.security.http.ssl: {enabled: true, key: tls/node.key, certificate: tls/node.crt}
END
    { printf -- '-Xms%s\n-Xmx%s\n' "$HEAP" "$HEAP"; [ -z "$2" ] || printf '%s\n' "$2"; } \
        > "$work/$1/jvm.options.d/bench.options"
    cp "$work/node.key" "$work/node.crt" "$work/$1/tls/"
    cp "$work/users" "$work/users_roles" "$work/$1/"
    chmod -R a+rX "$work/$1"
}

# shellcheck disable=SC2016 # expanded inside the container
START='ulimit -n "$(ulimit -Hn)"
export LD_PRELOAD=/usr/local/lib/provisioner/elasticsearch/nofile.so
exec bin/elasticsearch'

ready() {
    for n in $NODES; do
        at=$(docker port "$NAME-$n" 9200/tcp | head -n 1)
        health=$(curl -sk -m 2 -u admin:bench-only "https://$at/_cluster/health" || true)
        case $health in *'"number_of_nodes":3'*) ;; *) return 1 ;; esac
    done
}

now() {
    date +%s.%N
}

one() {
    for n in $NODES; do
        docker rm -fv "$NAME-$n" > /dev/null 2>&1 || true
        configure "$n" "$2"
        docker create --name "$NAME-$n" --hostname "$NAME-$n" --network "$NAME" -m 1g --cpus 2 -p 127.0.0.1::9200 \
            -e CLI_JAVA_OPTS="$2" "$IMAGE" /bin/sh -c "$START" > /dev/null
        docker cp "$work/$n/." "$NAME-$n:/usr/share/elasticsearch/config/" > /dev/null 2>&1
    done
    begin=$(now)
    # shellcheck disable=SC2086 # one name a word
    docker start $NAME-1 $NAME-2 $NAME-3 > /dev/null
    until ready; do
        if [ "$(echo "$(now) - $begin > $LIMIT" | bc)" = 1 ]; then
            docker logs --tail 20 "$NAME-1" >&2
            echo "no cluster within $LIMIT s" >&2
            exit 1
        fi
        sleep 0.2
    done
    took=$(echo "$(now) - $begin" | bc)
    cpu=0
    for n in $NODES; do
        used=$(curl -s --unix-socket /var/run/docker.sock \
            "http://docker/containers/$NAME-$n/stats?stream=false&one-shot=true" |
            sed -n 's/.*"cpu_stats":{"cpu_usage":{"total_usage":\([0-9]*\).*/\1/p')
        cpu=$(echo "scale=1; $cpu + ${used:-0} / 1000000000" | bc)
    done
    printf '%-4s %6.1f s  %6.1f cpu s  load %s\n' "$1" "$took" "$cpu" "$(cut -d ' ' -f 1 /proc/loadavg)"
}

echo "$RUNS runs each, 3 nodes, heap $HEAP, TLS, $(nproc) cores, image $IMAGE"
run=1
while [ "$run" -le "$RUNS" ]; do
    one both ''
    one c1 -XX:TieredStopAtLevel=1
    run=$((run + 1))
done
