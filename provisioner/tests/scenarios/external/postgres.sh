# Somebody's own PostgreSQL: over TLS alone, one account that owns one database. CRT, KEY and PASSWORD come as variables.
umask 077
cd /var/lib/postgresql
printf '%s\n' "$CRT" > server.crt
printf '%s\n' "$KEY" > server.key
initdb -D data -U postgres -E UTF8 --locale=C.UTF-8 --auth=reject > /dev/null
echo 'hostssl all shop all scram-sha-256' > hba.conf
printf '%s\n' "CREATE ROLE shop LOGIN PASSWORD '$PASSWORD';" 'CREATE DATABASE shop OWNER shop;' |
    postgres --single -D data postgres > /dev/null
unset PASSWORD KEY
echo 'local all postgres trust' >> hba.conf
exec postgres -D data -c listen_addresses='*' -c ssl=on -c ssl_cert_file=/var/lib/postgresql/server.crt \
    -c ssl_key_file=/var/lib/postgresql/server.key -c hba_file=/var/lib/postgresql/hba.conf \
    -c unix_socket_directories=/tmp
