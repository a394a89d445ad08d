#!/bin/sh
# Listens in the network of the tailscale service, and hands each connection on to the upstream in the tailnet, as it is.
set -eu
umask 077
: "${UPSTREAM_ADDRESS:?tailscale-relay.sh: TAILSCALE_UPSTREAM_ADDRESS is not set: the address of the upstream, 100.x.y.z}"
: "${UPSTREAM_PORT:?tailscale-relay.sh: TAILSCALE_UPSTREAM_PORT is not set}"
cat > /tmp/nginx.conf <<END
pid /tmp/nginx.pid;
error_log stderr warn;
worker_processes 1;
events {
    worker_connections 4096;
}
stream {
    server {
        listen $UPSTREAM_PORT;
        proxy_pass $UPSTREAM_ADDRESS:$UPSTREAM_PORT;
        proxy_connect_timeout 5s;
        # The gateway has its own limits of time; a quiet WebSocket may last.
        proxy_timeout 1h;
        proxy_socket_keepalive on;
    }
}
http {
    access_log off;
    client_body_temp_path /tmp/body;
    proxy_temp_path /tmp/proxy;
    fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi;
    scgi_temp_path /tmp/scgi;
    server {
        listen 127.0.0.1:9003;
        return 204;
    }
}
END
# When tailscale restarts, this one stays behind in a network that leads nowhere. It ends then, and Docker starts it in
# the new one. Any answer will do: that the tailnet is away is no reason.
(
    misses=0
    while sleep "${WATCH_INTERVAL:-10}"; do
        if curl --silent --max-time 5 --output /dev/null http://127.0.0.1:9002/healthz; then
            misses=0
        else
            misses=$((misses + 1))
        fi
        if [ "$misses" -ge 3 ]; then
            echo 'tailscale-relay.sh: tailscale is gone from this network; ending, to be started in its new one' >&2
            kill -QUIT $$
        fi
    done
) &
exec nginx -e stderr -c /tmp/nginx.conf -g 'daemon off;'
