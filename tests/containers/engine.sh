#!/usr/bin/env bash
# A Docker engine with compose and buildx, on a Debian machine that has none. Needs root.
#   engine.sh start        installs what is missing, starts dockerd, prints its process id
#   engine.sh stop PID     stops that dockerd and waits until it is gone
# It is no service and does not outlive the machine. Images stay in /var/lib/docker.
set -euo pipefail

plugins=/usr/libexec/docker/cli-plugins
log=/var/log/hone-dockerd.log

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }

# The mirror that this machine uses for Debian itself.
debian_mirror() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | head -n 1
}

install_engine() {
    command -v dockerd >/dev/null && return
    say "installing a Docker engine"
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends docker.io iptables >/dev/null
}

# Debian has compose v2 and buildx since trixie; each is one program that runs on bookworm as well.
install_plugins() {
    docker compose version >/dev/null 2>&1 && docker buildx version >/dev/null 2>&1 && return
    say "installing compose and buildx"
    local folder options
    folder=$(mktemp -d)
    mkdir -p "$folder/lists/partial" "$folder/parts" "$plugins"
    chmod -R a+rX "$folder"
    printf 'deb %s trixie main\n' "$(debian_mirror)" >"$folder/sources.list"
    options=(-qq -o "Dir::Etc::SourceList=$folder/sources.list" -o "Dir::Etc::SourceParts=$folder/parts"
             -o "Dir::State::Lists=$folder/lists")
    apt-get "${options[@]}" update
    (cd "$folder" && apt-get "${options[@]}" download docker-compose docker-buildx)
    for package in "$folder"/*.deb; do dpkg -x "$package" "$folder/unpacked"; done
    cp "$folder/unpacked$plugins"/docker-* "$plugins/"
    rm -r "$folder"
}

start() {
    install_engine
    install_plugins
    setsid dockerd >"$log" 2>&1 </dev/null &
    local pid=$!
    for _ in $(seq 120); do
        if docker info >/dev/null 2>&1; then
            echo "$pid"
            return
        fi
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.5
    done
    tail -n 20 "$log" >&2
    kill "$pid" 2>/dev/null || true
    fail "dockerd does not answer; its log is $log"
}

stop() {
    kill "$1" 2>/dev/null || return 0
    for _ in $(seq 120); do
        kill -0 "$1" 2>/dev/null || return 0
        sleep 0.5
    done
    fail "dockerd ($1) does not end"
}

case "${1:-}" in
    start) start ;;
    stop) stop "${2:?the process id}" ;;
    *) fail "say start, or stop PID" ;;
esac
