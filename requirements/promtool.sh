#!/usr/bin/env bash
# Prints the path of promtool, with which the alert rules are tested: the one on PATH, or that of Debian's package
# prometheus, unpacked below .cache and not installed. Says what is missing and ends with 69 where neither can be had.
set -euo pipefail
cd "$(dirname "$0")/.."

if command -v promtool; then exit 0; fi
folder=$PWD/.cache/promtool
if [ ! -x "$folder/promtool" ]; then
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || {
    echo "promtool is missing, and there is no apt-get to get it with: install Prometheus and put promtool on PATH" >&2
    exit 69
  }
  mkdir -p "$folder"
  work=$(mktemp -d "$folder/XXXXXX")
  trap 'rm -rf "$work"' EXIT
  cd "$work"
  apt-get download -q prometheus >&2 || { apt-get update -qq >&2 && apt-get download -q prometheus >&2; } || {
    echo "apt-get cannot download the package prometheus: put promtool on PATH" >&2
    exit 69
  }
  dpkg-deb --extract prometheus_*.deb unpacked
  mv unpacked/usr/bin/promtool "$folder/promtool"
fi
echo "$folder/promtool"
