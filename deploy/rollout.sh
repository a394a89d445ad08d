#!/usr/bin/env bash
# Rolls a release out on a server that runs it with Docker Compose, or back. deploy/rollout.md tells the whole story.
#
#   rollout.sh WEB_IMAGE@sha256:… WORKER_IMAGE@sha256:…   the release whose folder this script is in
#   rollout.sh --again                                     the current one, after a change of .env or secrets/
#   rollout.sh --rollback                                  the one before, or the current one after an interrupted rollout
#
# Exit code: 0 done; 1 failed, and what served before serves on; 2 used wrongly; 3 failed, and what served before could
# not be brought back: a person has to look; 75 another rollout is running.
#
# $ROOT/releases/NAME/   a release: docker-compose.yml, deploy/, rollout.log, and images-REVISION.yml, which names digests
# $ROOT/history          what served, one NAME/REVISION a line, the present one last
# $ROOT/pending          the NAME/REVISION of a rollout that has begun and not ended
# $ROOT/current          a link to the present release, for people
# $ROOT/{docker-compose.yml,docker-compose.override.yml,deploy/}   the present release's, for `docker compose` and mounts
set -euo pipefail
shopt -s inherit_errexit
# The users of the containers read what is put there, whatever this login's umask is.
umask 022
# A connection that breaks must not end it half way.
trap '' HUP PIPE

readonly PROJECT=zenzefi
readonly HEALTHY_WITHIN_S=${ROLLOUT_HEALTHY_WITHIN_S:-180}
# nginx asks Docker's DNS for the instances every 5 s: it has to know the new one before an old one leaves.
readonly SETTLE_S=${ROLLOUT_SETTLE_S:-10}
readonly POLL_S=${ROLLOUT_POLL_S:-1}
readonly KEEP=5
# In its container: deploy/nginx/start.sh has begun as process 1 and become nginx.
readonly RELOAD_NGINX='sh /etc/zenzefi/nginx/render.sh &&
  nginx -t -q -e stderr -p /tmp/nginx -c /tmp/nginx/conf/nginx.conf && kill -HUP 1'

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
if [[ $(basename "$(dirname "$HERE")") == releases ]]; then ROOT=${HERE%/releases/*}; else ROOT=$HERE; fi
readonly HERE ROOT
log=/dev/null
interrupted=

say() {
  printf '%s %s\n' "$(date -u +%H:%M:%S)" "$*" | tee -a "$log" 2>/dev/null || true
}

die() { # EXIT_CODE WORDS…
  local code=$1
  shift
  printf 'rollout.sh: %s\n' "$*" >&2 || true
  exit "$code"
}

# Runs a command; what it says goes to the log, and to the person only if it fails.
quietly() {
  local output
  if output=$("$@" 2>&1); then
    printf '%s\n' "$output" >>"$log"
  else
    printf '%s\n' "$output" >>"$log"
    say "failed: $*"
    tail -n 30 <<<"$output" || true
    return 1
  fi
}

# A target is NAME/REVISION: a release with the images and settings of one rollout.
compose() { # TARGET ARGUMENTS…
  local folder=$ROOT/releases/${1%/*} images=images-${1#*/}.yml
  shift
  docker compose --ansi never --project-name "$PROJECT" --project-directory "$ROOT" \
    --file "$folder/docker-compose.yml" --file "$folder/$images" "$@"
}

# What instances are replaced for: images, compose file, settings, and secrets, whose contents are nobody's business here.
revision_of() { # NAME WEB WORKER
  {
    printf '%s\n' "$2" "$3"
    cat "$ROOT/releases/$1/docker-compose.yml"
    if [[ -f $ROOT/.env ]]; then cat "$ROOT/.env"; fi
    find "$ROOT/secrets" -type f -printf '%P %s %T@\n' 2>/dev/null | sort || true
  } | sha256sum | cut -c 1-12
}

write_images() { # TARGET WEB WORKER
  local file=$ROOT/releases/${1%/*}/images-${1#*/}.yml
  cat >"$file.new" <<END
# Written by rollout.sh: the images of this release, by digest.
services:
  migrate: {image: "$2"}
  web: {image: "$2", labels: {$PROJECT.rollout: "$1"}}
  worker: {image: "$3", labels: {$PROJECT.rollout: "$1"}}
  worker-heavy: {image: "$3", labels: {$PROJECT.rollout: "$1"}}
END
  mv "$file.new" "$file"
}

image_of() { # TARGET SERVICE
  sed -n "s/^  $2: {image: \"\([^\"]*\)\".*/\1/p" "$ROOT/releases/${1%/*}/images-${1#*/}.yml"
}

current() {
  if [[ -s $ROOT/history ]]; then tail -n 1 "$ROOT/history"; fi
}

instances() { # SERVICE [LABEL=VALUE]: also those that have ended
  docker ps --all --quiet --no-trunc --filter "label=com.docker.compose.project=$PROJECT" \
    --filter "label=com.docker.compose.service=$1" --filter label=com.docker.compose.oneoff=False ${2:+--filter "label=$2"}
}

of_target() { # SERVICE TARGET
  instances "$1" "$PROJECT.rollout=$2"
}

of_others() { # SERVICE TARGET
  local all mine
  all=$(instances "$1") && mine=$(of_target "$1" "$2") || return 1
  without "$mine" "$all"
}

without() { # LINES ALL_LINES
  grep -vxFf <(printf '%s\n' "${1:--}") <<<"$2" || true
}

health() { # ID
  docker inspect --format '{{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{else}}unchecked{{end}}' "$1"
}

await_healthy() { # ID
  local state deadline=$((SECONDS + HEALTHY_WITHIN_S))
  while state=$(health "$1") && [[ $state != 'running healthy' ]]; do
    case $state in
      'running starting' | 'created '* | 'restarting '*) ;;
      *) break ;;
    esac
    if ((SECONDS >= deadline)) || [[ -n $interrupted ]]; then break; fi
    sleep "$POLL_S"
  done
  if [[ $state != 'running healthy' ]]; then
    say "${interrupted:+stopped by a signal while }${1:0:12} is not healthy, but ${state:-not there}; the end of its log:"
    docker logs --tail 20 "$1" 2>&1 | tee -a "$log" || true
    return 1
  fi
}

remove() { # ID…
  local id
  for id in "$@"; do
    # Within its stop_grace_period it answers what it has begun.
    quietly docker stop "$id" && quietly docker rm "$id" || return 1
  done
}

# Instances of a target that are not healthy: an earlier run left them, or they are why it failed.
discard_failed() { # TARGET
  local service id
  for service in web worker worker-heavy; do
    for id in $(of_target "$service" "$1"); do
      if [[ $(health "$id") != 'running healthy' ]]; then remove "$id" || return 1; fi
    done
  done
}

up() { # TARGET OPTIONS-AND-SERVICES…
  local target=$1
  shift
  quietly compose "$target" up --detach --no-build --no-deps --no-recreate "$@"
}

# Replaces the instances of a service one by one: a new one, healthy; then an old one drains and goes.
roll() { # TARGET SERVICE SETTLE_S
  local target=$1 service=$2 settle_s=$3 others old id total before after
  others=$(of_others "$service" "$target") || return 1
  for old in $others; do
    if [[ -n $interrupted ]]; then say 'stopped by a signal'; return 1; fi
    before=$(of_target "$service" "$target") && total=$(instances "$service" | wc -l) || return 1
    up "$target" --scale "$service=$((total + 1))" "$service" || return 1
    after=$(of_target "$service" "$target") || return 1
    await_healthy "$(without "$before" "$after")" || return 1
    sleep "$settle_s"
    remove "$old" || return 1
  done
  # As many as the release says: the first ones ever, or one less after a run that was interrupted.
  up "$target" "$service" && after=$(of_target "$service" "$target") || return 1
  for id in $after; do await_healthy "$id" || return 1; done
  say "$service: $(wc -w <<<"$after") of $target healthy"
}

# Puts the release's files where containers have them mounted: into the same files, for a mount does not follow a rename.
install_files() { # TARGET
  local release=$ROOT/releases/${1%/*} file
  mkdir -p "$ROOT/deploy" &&
    cp -R "$release/deploy/." "$ROOT/deploy/" &&
    cp "$release/docker-compose.yml" "$ROOT/docker-compose.yml" &&
    cp "$release/images-${1#*/}.yml" "$ROOT/docker-compose.override.yml" || return 1
  while IFS= read -r -d '' file; do
    if [[ ! -e $release/deploy/$file ]]; then rm "$ROOT/deploy/$file" || return 1; fi
  done < <(cd "$ROOT/deploy" && find . -type f -print0)
}

# Starts what else the release has and does not run yet, and gives nginx its configuration. What runs is not recreated:
# an upgrade of PostgreSQL or nginx is an act of its own.
settle_surroundings() { # TARGET
  local services
  services=$(compose "$1" config --services | grep -vxE 'migrate|web|worker|worker-heavy') || return 1
  # shellcheck disable=SC2086  # names of services
  up "$1" $services || return 1
  if grep -qx nginx <<<"$services"; then
    up "$1" --wait nginx && quietly compose "$1" exec -T nginx sh -c "$RELOAD_NGINX"
  fi
}

serve() { # TARGET: make it what serves
  discard_failed "$1" &&
    install_files "$1" &&
    roll "$1" web "$SETTLE_S" &&
    roll "$1" worker 0 &&
    roll "$1" worker-heavy 0 &&
    settle_surroundings "$1"
}

# The product's own by name: of what it could build, Compose only warns that it cannot be pulled.
pull() { # TARGET
  quietly docker pull --quiet "$(image_of "$1" web)" &&
    quietly docker pull --quiet "$(image_of "$1" worker)" &&
    quietly compose "$1" pull --quiet --policy missing --ignore-buildable
}

start_stores() { # TARGET
  local stores
  stores=$(compose "$1" config --services | grep -xE 'postgres|redis') || return 0 # they are elsewhere
  # shellcheck disable=SC2086  # names of services
  up "$1" --wait $stores
}

# Everything that changes nothing of what serves. Migrations only add: the old release runs on the new schema.
prepare() { # TARGET
  say "preparing $1"
  quietly compose "$1" config --quiet && pull "$1" || return 1
  if [[ -z $(current) ]]; then install_files "$1" || return 1; fi
  start_stores "$1" && quietly compose "$1" run --rm --no-deps -T migrate
}

commit() { # TARGET
  if [[ $(current) != "$1" ]]; then
    { cat "$ROOT/history" 2>/dev/null || true; printf '%s\n' "$1"; } >"$ROOT/history.new"
    mv "$ROOT/history.new" "$ROOT/history"
  fi
  finish
}

finish() {
  ln -sfn "releases/$(current | cut -d / -f 1)" "$ROOT/current.new"
  mv -T "$ROOT/current.new" "$ROOT/current"
  rm -f "$ROOT/pending"
}

# Releases that served long ago go, with their images. One that nobody has rolled out yet may be on its way.
prune() {
  local kept folder image
  kept=$(tail -n "$KEEP" "$ROOT/history" | cut -d / -f 1)
  while IFS= read -r -d '' folder; do
    if grep -qxF "$(basename "$folder")" <<<"$kept"; then continue; fi
    while IFS= read -r image; do
      docker image rm "$image" >>"$log" 2>&1 || true # used by another release, or gone
    done < <(sed -n 's/.*image: "\([^"]*\)".*/\1/p' "$folder"/images-*.yml 2>/dev/null | sort -u)
    rm -rf "$folder"
    say "removed release $(basename "$folder")"
  done < <(find "$ROOT/releases" -mindepth 1 -maxdepth 1 -type d -mmin +1440 -print0)
}

restore() { # FAILED_TARGET
  local earlier
  earlier=$(current)
  trap '' INT TERM
  interrupted=
  if [[ -z $earlier ]]; then
    rm -f "$ROOT/pending"
    die 1 "$1 failed, and there is no earlier release to go back to. $log tells why."
  fi
  say "going back to $earlier"
  if discard_failed "$1" && serve "$earlier"; then
    finish
    die 1 "$1 failed; $earlier serves as before. $log tells why."
  fi
  die 3 "$1 failed, and going back to $earlier failed as well. Look at $log and at: docker ps --all"
}

roll_out() { # TARGET
  local before
  before=$(current)
  printf '%s\n' "$1" >"$ROOT/pending"
  trap 'interrupted=yes' INT TERM
  if ! prepare "$1"; then
    rm -f "$ROOT/pending"
    die 1 "$1 failed before anything was replaced; ${before:-nothing} serves as before. $log tells why."
  fi
  if ! serve "$1"; then restore "$1"; fi
  commit "$1"
  prune
  say "$1 serves"
}

# A contract migration takes away what the release before it does not use; older ones may.
refuse_past_contract() { # TARGET THAT IS LEFT
  local status missing
  status=$(compose "$1" run --rm --no-deps -T migrate migrate status 2>>"$log") ||
    die 1 "the state of the migrations cannot be read; nothing was changed. $log tells why."
  missing=$(grep -w unknown <<<"$status" | grep -oE '[0-9]+\.contract-[a-z0-9-]+' | paste -sd ' ') || return 0
  die 1 "no release before ${1%/*} runs on this schema any more, because of $missing. Go forward, or restore a backup."
}

roll_back() {
  local from to failed
  from=$(current)
  failed=$(cat "$ROOT/pending" 2>/dev/null || true)
  if [[ -n $failed && $failed != "$from" ]]; then
    to=$from
  else
    refuse_past_contract "$from"
    failed=$from
    to=$(awk -F / -v left="${from%/*}" '$1 != left' "$ROOT/history" | tail -n 1)
    if [[ -z $to ]]; then die 2 'there is no earlier release to go back to.'; fi
  fi
  printf '%s\n' "$failed" >"$ROOT/pending"
  say "going back from $failed to $to"
  # Settings may have changed since, so these instances may be other ones than those that served.
  if ! { pull "$to" && discard_failed "$failed" && serve "$to"; }; then
    die 3 "going back to $to failed. Look at $log and at: docker ps --all"
  fi
  # What was left is not what a second --rollback goes to.
  awk -v to="$to" '{ lines[NR] = $0; if ($0 == to) last = NR } END { for (i = 1; i <= last; i++) print lines[i] }' \
    "$ROOT/history" >"$ROOT/history.new"
  mv "$ROOT/history.new" "$ROOT/history"
  finish
  say "$to serves"
}

main() {
  local web worker name target digest='^[a-z0-9][a-z0-9./_:-]*@sha256:[0-9a-f]{64}$'
  case $#:${1-} in
    1:--rollback | 1:--again)
      if [[ -z $(current) ]]; then die 2 'nothing has been rolled out here yet.'; fi
      name=$(current | cut -d / -f 1)
      ;;
    2:*)
      if [[ ! $1 =~ $digest || ! $2 =~ $digest ]]; then die 2 'an image is named by its digest: NAME@sha256:…'; fi
      if [[ $HERE == "$ROOT" ]]; then die 2 'run it from the folder of a release: releases/NAME/deploy/rollout.sh'; fi
      name=$(basename "$HERE")
      ;;
    *) die 2 'usage: rollout.sh WEB_IMAGE@sha256:… WORKER_IMAGE@sha256:… | --again | --rollback' ;;
  esac
  exec 9>"$ROOT/rollout.lock"
  flock --nonblock 9 || die 75 'another rollout is running here; nothing was done.'
  log=$ROOT/releases/$name/rollout.log
  if [[ $1 == --rollback ]]; then
    roll_back
    return
  fi
  if [[ $1 == --again ]]; then web=$(image_of "$(current)" web) worker=$(image_of "$(current)" worker); else web=$1 worker=$2; fi
  target=$name/$(revision_of "$name" "$web" "$worker")
  write_images "$target" "$web" "$worker"
  roll_out "$target"
}

# In one line, for the file may be another one by then.
main "$@"; exit
