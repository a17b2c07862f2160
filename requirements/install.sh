#!/usr/bin/env bash
# Makes .venv at the project's root from requirements/dev.txt: exact versions with hashes, so that what worked keeps
# working. Does nothing when the environment is already that one. Needs Python 3.11+ (PYTHON names another than python3).
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
  echo "Python 3.11 or newer is needed; '$python' is not. Name one: make PYTHON=/path/to/python3.11 $*" >&2
  exit 1
}
wanted=$(cat requirements/dev.txt requirements/uv.txt pyproject.toml "$0" | sha256sum | cut -d' ' -f1)
# The environment holds absolute paths: a moved checkout needs a new one.
wanted="$wanted $PWD"
[ "$(cat .venv/installed 2>/dev/null || true)" = "$wanted" ] && exit 0

echo "==> Setting up .venv (about two minutes the first time; $(grep -cE '^[A-Za-z0-9]' requirements/dev.txt) packages)"
if [ ! -x .venv/bin/python ] || ! grep -q " $PWD\$" .venv/installed 2>/dev/null; then
  rm -rf .venv
  "$python" -m venv .venv || {
    echo "python's venv module does not work here; on Debian: apt-get install python3-venv" >&2
    exit 1
  }
fi
if [ ! -x .venv/bin/uv ]; then
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
fi
# Compiled bytecode: most of a small job's time to its first step is imports.
.venv/bin/uv pip sync --python .venv/bin/python --require-hashes --compile-bytecode requirements/dev.txt
.venv/bin/uv pip install --python .venv/bin/python --quiet --no-deps --no-build-isolation --editable .
echo "$wanted" > .venv/installed
echo "==> .venv is ready"
