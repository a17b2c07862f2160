#!/bin/sh
# Builds Kueue's own manager, for the tests alone, into .cache/kueue/manager with its CRDs and webhooks beside it in
# .cache/kueue/config, and prints that folder. It comes as a Go module and is compiled in place, with the versions and
# sums of its own go.mod and go.sum. It builds only when the version changes; about 4 minutes on 2 cores the first time.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
project=$(dirname "$(dirname "$here")")
out=$project/.cache/kueue
version=v0.19.2
sum=h1:mPNzr37u0nwI7ikST5QQl5gg6EgtYOAvC9ZbTgywdN8=
name=kueue
. "$project/localcluster/go.sh"

wanted="$version $sum $(cat "$0" | sha256sum)"

field() { sed -n "s/^[[:space:]]*\"$1\": \"\(.*\)\",*$/\1/p"; }

build() {
    cd "$source"
    exec env CGO_ENABLED=0 GOFLAGS="-buildvcs=false -mod=readonly" GOWORK=off \
        "$go" build -trimpath -ldflags "-s -w" -o "$out/manager.new" ./cmd/kueue
}

mkdir -p "$out"
if [ ! -x "$out/manager" ] || [ "$(cat "$out/built" 2>/dev/null)" != "$wanted" ]; then
    go=$(find_go)
    # Outside a module, so that no go.mod of ours is asked about it.
    module=$(cd "$out" && GOFLAGS= "$go" mod download -json "sigs.k8s.io/kueue@$version")
    source=$(printf '%s\n' "$module" | field Dir)
    found=$(printf '%s\n' "$module" | field Sum)
    [ "$found" = "$sum" ] || { say "Kueue $version has the sum $found, and $sum is expected"; exit 1; }
    say "building Kueue $version with $("$go" env GOVERSION); the first build takes about 4 minutes on 2 cores"
    with_progress build
    rm -rf "$out/config"
    mkdir "$out/config"
    cp -R "$source/config/components/crd/bases" "$out/config/crds"
    cp "$source/config/components/webhook/manifests.yaml" "$out/config/webhooks.yaml"
    chmod -R u+w "$out/config"
    mv "$out/manager.new" "$out/manager"
    printf '%s' "$wanted" >"$out/built"
fi
echo "$out"
