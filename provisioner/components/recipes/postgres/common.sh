# shellcheck shell=sh
# Shared by member, bootstrap, clone and rejoin, which source it.

# An image may keep the programs where Debian does, outside of PATH.
PATH=$PATH:/usr/lib/postgresql/17/bin
# Not .../data: Docker's library image declares that path a volume of its own, which would hide ours.
PGROOT=/var/lib/postgresql
PGDATA=$PGROOT/17/main
# Another member has become primary, or may have: nothing is served from here until this is gone.
FENCED=$PGROOT/fenced
# What pg_controldata prints is read by this script.
LC_ALL=C
export PATH PGDATA FENCED LC_ALL

# 78: EX_CONFIG of sysexits.h.
refuse() {
    echo "${0##*/}: $*" >&2
    exit 78
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

# Follows PRIMARY in the data directory $1. The password is not written down, nor whether to encrypt: the server has both in
# its environment. Without tcp_user_timeout a replica stayed away for 40 to 74 s after its primary was restarted elsewhere.
follow() {
    settings=$1/postgresql.auto.conf
    # What ALTER SYSTEM has set on the primary comes along; who follows whom does not.
    grep -vE '^(primary_conninfo|primary_slot_name|synchronous_standby_names) *=' "$settings" > "$settings.new" || true
    cat >> "$settings.new" <<CONF
primary_conninfo = 'host=$PRIMARY port=5432 user=replicator application_name=$MEMBER connect_timeout=2 tcp_user_timeout=2000'
primary_slot_name = '$SLOT'
CONF
    chmod 600 "$settings.new"
    mv "$settings.new" "$settings"
    touch "$1/standby.signal"
    sync "$settings" "$1/standby.signal" "$1"
}

# A copy of PRIMARY in $1, ready to follow it; what was there is removed first.
copy() {
    mkdir -p "${1%/*}"
    attempt=1
    # -c fast: a spread checkpoint would take as long as checkpoint_timeout. A slot stays busy for wal_sender_timeout after
    # its last user was killed. One syncfs instead of an fsync for each of 1400 files: 1.4 instead of 2.4 s for 80 MB.
    while rm -rf "$1" && ! pg_basebackup --pgdata="$1" --host="$PRIMARY" --port=5432 --username=replicator \
        --no-password --checkpoint=fast --sync-method=syncfs --wal-method=stream --slot="$SLOT"; do
        [ "$attempt" -lt 8 ] || exit 1
        attempt=$((attempt + 1))
        sleep 1
    done
    copied=$(system_id "$1")
    if [ "$copied" != "$SYSTEM_ID" ]; then
        refuse "$PRIMARY has system identifier $copied, expected $SYSTEM_ID"
    fi
    follow "$1"
}
