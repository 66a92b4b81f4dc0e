#!/bin/sh
# NGINX looks names up when it loads its configuration, only then, and does not load while one is unknown. This looks the
# backends up for it and leaves out those that are not there, so that one missing backend never keeps NGINX down.
#
#   nginx.sh start   waits up to 10 s for all backends, then becomes NGINX
#   nginx.sh check   looks the backends up again and checks the configuration; a SIGHUP then has NGINX use both
set -eu

# One order everywhere for the files of a folder.
export LC_ALL=C
backends=/etc/nginx/site/backends
generated=/var/cache/nginx

# Checked by another user (root, by hand), NGINX hands its temporary folders to that user's choice, and what runs answers 500.
if ! [ -O "$generated" ]; then
    echo "nginx.sh: found user $(id -un), expected $(stat -c %U "$generated"), the owner of $generated" >&2
    exit 77
fi

# Writes the addresses, and what is about to be loaded; fails where a backend has none.
look_up() {
    servers='' loaded='' missing=0
    while read -r name port; do
        # An engine passes names that it does not know on to the outside, which may never answer.
        ip=$(timeout 1 getent ahosts "$name" | { read -r ip rest && echo "$ip"; }) || ip='' missing=1
        loaded="$loaded${loaded:+,}$name=$ip"
        case $ip in
            '') continue ;;
            *:*) ip="[$ip]" ;;
        esac
        # max_fails=0: with few backends, marking them failed after one restart leaves "no live upstreams"; the next one is
        # tried at once instead (server.conf).
        servers="${servers}server $ip:$port max_fails=0; # $name
"
    done < "$backends"
    # Without any, static files are still served.
    [ -n "$servers" ] || servers='server 127.0.0.1:1 down;
'
    printf '%s' "$servers" > "$generated/servers.conf"
    printf 'default "%s";\n' "$loaded" > "$generated/loaded.conf"
    # NGINX tells it of the configuration that it runs with, which may be another one than lies here by then.
    digest=$(cat /etc/nginx/nginx.conf /etc/nginx/site/* | sha256sum)
    printf 'default "%s";\n' "${digest%% *}" > "$generated/digest.conf"
    return $missing
}

# An empty volume becomes this user's with the image's own folder, and backends write pictures into it. Where it is theirs
# already, there is nothing to do.
chmod 1777 /srv/media 2> /dev/null || true

case ${1:-} in
    start)
        # The first process of a container gets no signal that it does not ask for.
        trap 'exit 0' QUIT TERM INT
        deadline=$(($(date +%s) + 10))
        until look_up || [ "$(date +%s)" -ge $deadline ]; do
            sleep 0.2
        done
        exec nginx
        ;;
    check)
        look_up || true
        exec nginx -t
        ;;
    *)
        echo "nginx.sh: found ${1:-no argument}, expected start or check" >&2
        exit 64
        ;;
esac
