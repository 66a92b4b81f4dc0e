# Somebody's own Elasticsearch: one node over TLS alone, with one user. NODE is the recipe's script, which hashes passwords.
umask 077
cd /usr/share/elasticsearch/config
mkdir -p tls
printf '%s\n' "$CRT" > tls/node.crt
printf '%s\n' "$KEY" > tls/node.key
eval "$(printf '%s\n' "$NODE" | sed -n '/^hashed()/,/^}/p')"
printf 'shop:%s\n' "$(hashed "$PASSWORD")" > users
echo 'superuser:shop' > users_roles
unset PASSWORD KEY NODE
cat > elasticsearch.yml <<CONF
cluster.name: somebodys
discovery.type: single-node
network.host: 0.0.0.0
node.store.allow_mmap: false
cluster.routing.allocation.disk.threshold_enabled: false
xpack.security.enabled: true
xpack.security.enrollment.enabled: false
xpack.security.autoconfiguration.enabled: false
xpack.security.authc.realms.file.users.order: 0
xpack.security.authc.realms.native.indexed.enabled: false
xpack.security.http.ssl.enabled: true
xpack.security.http.ssl.key: tls/node.key
xpack.security.http.ssl.certificate: tls/node.crt
CONF
exec env ES_JAVA_OPTS='-Xms384m -Xmx384m' /usr/share/elasticsearch/bin/elasticsearch
