#!/bin/sh
# Renders templates/ into $NGINX_RUN_DIR/conf, by the variables that README.md lists.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
run_dir=${NGINX_RUN_DIR:-/tmp/nginx}
certificate=${NGINX_CERTIFICATE:-/etc/zenzefi/certificates/zenzefi.pem}

fail() {
    echo "nginx/render.sh: $*" >&2
    exit 1
}

# require_words NAME PATTERN WHAT VALUE: each word of the value has to be one; what it holds becomes configuration.
require_words() {
    for word in $4; do
        echo "$word" | grep -Eqx "$2" || fail "$1 has '$word', which is no $3."
    done
}

# is_at_least VERSION WANTED: compare versions of three numbers.
is_at_least() {
    [ "$(printf '%s\n%s\n' "$1" "$2" | sort -t. -k1,1n -k2,2n -k3,3n | head -n 1)" = "$2" ]
}

# Directives of several lines are made here, the rest stands in the templates.

# listen_lines PORTS OPTIONS: `listen` for each; a bare port means all addresses of this machine.
listen_lines() {
    for address in $1; do
        echo "    listen $address$2;"
        case $address in
            *:*) ;;
            *) [ ! -e /proc/net/if_inet6 ] || echo "    listen [::]:$address$2;" ;;
        esac
    done | awk '!seen[$0]++'
}

# Names are asked for anew while nginx runs, from 1.27.3 on.
web_lines() {
    for address in $web_instances; do
        case $address in
            *[!0-9.:]*:*) host_is_name=$(is_at_least "$version" 1.27.3 && echo yes || echo no) ;;
            *) host_is_name=no ;;
        esac
        case $address in
            \[*) host_is_name=no ;;
        esac
        [ "$host_is_name" = yes ] && resolve=' resolve' || resolve=''
        echo "    server $address$resolve max_fails=0;"
    done
}

resolver_line() {
    resolvers=${NGINX_RESOLVER:-$(awk '$1 == "nameserver" { print $2 }' /etc/resolv.conf 2>/dev/null || true)}
    addresses=
    for resolver in $resolvers; do
        case $resolver in
            \[*) ;;
            *:*:*) resolver="[${resolver%\%*}]" ;;
        esac
        addresses="$addresses $resolver"
    done
    [ -z "$addresses" ] || echo "resolver$addresses valid=5s;"
}

real_ip_lines() {
    for network in ${NGINX_TRUSTED_PROXIES:-}; do
        echo "set_real_ip_from $network;"
    done
    [ -z "${NGINX_TRUSTED_PROXIES:-}" ] || printf 'real_ip_header X-Forwarded-For;\nreal_ip_recursive on;\n'
}

# The groups of the OpenSSL that nginx runs with, which need not be the one of the command.
tls_groups() {
    openssl_version=$(nginx -V 2>&1 | sed -n 's/^built with OpenSSL \([0-9.]*\).*/\1/p')
    running=$(nginx -V 2>&1 | sed -n 's/.*running with OpenSSL \([0-9.]*\).*/\1/p')
    hybrid=
    is_at_least "${running:-${openssl_version:-0.0.0}}" 3.5.0 && hybrid=X25519MLKEM768:
    echo "${hybrid}X25519:prime256v1:secp384r1"
}

ocsp_line() {
    [ -z "$(openssl x509 -in "$run_dir/certificate.pem" -noout -ocsp_uri 2>/dev/null)" ] || echo 'ssl_stapling on;'
}

# Journald's end of standard output is a socket, which cannot be opened by its name.
default_access_log() {
    if [ -S /dev/stdout ]; then echo syslog:server=unix:/dev/log,nohostname; else echo /dev/stdout; fi
}

# nginx begins with a certificate of its own making, or it could not answer the challenge that a real one needs.
make_certificate() {
    umask_before=$(umask)
    umask 077
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj "/CN=zenzefi.invalid" \
        -addext "subjectAltName=DNS:zenzefi.invalid" -keyout "$1.key" -out "$1.crt" 2>/dev/null ||
        fail "openssl could not make a self-signed certificate."
    cat "$1.key" "$1.crt" >"$1.new"
    rm -f "$1.key" "$1.crt"
    mv "$1.new" "$1"
    umask "$umask_before"
}

link_certificate() {
    source=$certificate
    if [ ! -r "$certificate" ]; then
        source=$run_dir/self-signed.pem
        [ -e "$source" ] || make_certificate "$source"
    fi
    ln -sfn "$source" "$run_dir/certificate.pem"
}

: "${SERVER_NAME:?nginx/render.sh: SERVER_NAME is not set: the public host name, or several}"
web_instances=${WEB_INSTANCES:-web:8000}
require_words SERVER_NAME '[a-z0-9]([a-z0-9.-]*[a-z0-9])?' 'host name in small letters' "$SERVER_NAME"
require_words WEB_INSTANCES '(\[[0-9a-f:]+\]|[A-Za-z0-9._-]+):[0-9]+' 'host:port' "$web_instances"
require_words NGINX_TRUSTED_PROXIES '[0-9a-f.:]+(/[0-9]+)?' 'address or CIDR' "${NGINX_TRUSTED_PROXIES:-}"
require_words NGINX_RESOLVER '(\[[0-9a-f:]+\]|[0-9a-f.:]+)(:[0-9]+)?' 'address' "${NGINX_RESOLVER:-}"
for program in nginx envsubst openssl; do
    command -v "$program" >/dev/null || fail "$program is not there. Debian, Ubuntu: apt install nginx gettext-base openssl"
done
version=$(nginx -v 2>&1 | sed -n 's|.*/\([0-9.]*\).*|\1|p')
is_at_least "$version" 1.22.0 || fail "nginx $version is too old; 1.22 or newer is needed."

for folder in conf temporary; do
    mkdir -p "$run_dir/$folder"
done
link_certificate

# `listen … http2` until 1.25, `http2 on` from 1.25.1 on, which warns of the former.
if is_at_least "$version" 1.25.1; then http2_option='' HTTP2='    http2 on;'; else http2_option=' http2' HTTP2=''; fi
https=${NGINX_HTTPS_LISTEN:-8443}
http=${NGINX_HTTP_LISTEN:-8080}
LISTEN_HTTPS=$(listen_lines "$https" " ssl$http2_option")
# What belongs to the socket may be said once: a client that is gone is noticed within two minutes.
LISTEN_HTTPS_DEFAULT=$(listen_lines "$https" " ssl$http2_option default_server backlog=2048 so_keepalive=60s:15s:4")
LISTEN_HTTP=$(listen_lines "$http" '')
LISTEN_HTTP_DEFAULT=$(listen_lines "$http" ' default_server')
LISTEN_STATUS=$(listen_lines "${NGINX_STATUS_LISTEN:-8081}" '')
RUN_DIR=$run_dir
WORKERS=${NGINX_WORKERS:-auto}
ACCESS_LOG=${NGINX_ACCESS_LOG:-$(default_access_log)}
ACME_WEBROOT=${ACME_WEBROOT:-/var/www/acme}
PROXY_MAX_BODY=${NGINX_PROXY_MAX_BODY:-0}
REAL_IP=$(real_ip_lines)
RESOLVER=$(resolver_line)
WEB_SERVERS=$(web_lines)
TLS_GROUPS=$(tls_groups)
OCSP=$(ocsp_line)
export LISTEN_HTTPS LISTEN_HTTPS_DEFAULT LISTEN_HTTP LISTEN_HTTP_DEFAULT LISTEN_STATUS HTTP2 RUN_DIR WORKERS ACCESS_LOG \
    ACME_WEBROOT PROXY_MAX_BODY REAL_IP RESOLVER WEB_SERVERS TLS_GROUPS OCSP SERVER_NAME

# Only these: nginx's own variables look the same.
# shellcheck disable=SC2016  # names for envsubst, not values
variables='$LISTEN_HTTPS $LISTEN_HTTPS_DEFAULT $LISTEN_HTTP $LISTEN_HTTP_DEFAULT $LISTEN_STATUS $HTTP2 $RUN_DIR $WORKERS
    $ACCESS_LOG $ACME_WEBROOT $PROXY_MAX_BODY $REAL_IP $RESOLVER $WEB_SERVERS $TLS_GROUPS $OCSP $SERVER_NAME'
for template in "$here"/templates/*.template; do
    target=$run_dir/conf/$(basename "$template" .template)
    envsubst "$variables" <"$template" >"$target.new"
    mv "$target.new" "$target"
done
