# shellcheck shell=sh
# Shared by member, bootstrap and clone, which source it.

# An image may keep the programs where Debian does, outside of PATH.
PATH=$PATH:/usr/lib/postgresql/17/bin
# Not .../data: Docker's library image declares that path a volume of its own, which would hide ours.
PGROOT=/var/lib/postgresql
PGDATA=$PGROOT/17/main
# What pg_controldata prints is read by this script.
LC_ALL=C
export PATH PGDATA LC_ALL

# 78: EX_CONFIG of sysexits.h.
refuse() {
    echo "${0##*/}: $*" >&2
    exit 78
}

# PostgreSQL does not run as root, and an image may start as root. A volume that nobody has used belongs to root as well.
leave_root() {
    [ "$(id -u)" = 0 ] || return 0
    mkdir -p /var/run/postgresql
    chown postgres:postgres "$PGROOT" /var/run/postgresql
    if command -v setpriv > /dev/null && setpriv --help 2>&1 | grep -q -e --reuid; then
        exec setpriv --reuid=postgres --regid=postgres --init-groups /bin/sh "$0" "$@"
    fi
    for tool in gosu su-exec; do
        if command -v "$tool" > /dev/null; then
            exec "$tool" postgres /bin/sh "$0" "$@"
        fi
    done
    refuse "runs as root and finds none of setpriv, gosu, su-exec to become postgres: use an image that has one or starts as postgres"
}

# Data gets its name in one rename when it is whole, so its presence is the proof.
is_finished() {
    [ -s "$PGDATA/PG_VERSION" ] && [ -s "$PGDATA/global/pg_control" ]
}

# Something under the name of the data that is no cluster was put there by hand: neither used nor removed.
refuse_foreign() {
    if [ -e "$PGDATA" ] && ! is_finished; then
        refuse "$PGDATA exists and is no PostgreSQL cluster: move it away, then run provisioner up"
    fi
}

# A value of the control file in data directory $1.
control() {
    pg_controldata "$1" | sed -n "s/^$2: *//p"
}

system_id() {
    control "$1" 'Database system identifier'
}

# Files were written to disk by whoever made them; this does the same for the names that lead to them.
keep() {
    mkdir -p "${PGDATA%/*}"
    mv "$1" "$PGDATA"
    sync "${PGDATA%/*}" "$PGROOT"
}
