#!/usr/bin/env bash
# Compiles every kernel with nvcc and keeps the objects, compressed, in kernels/prebuilt/: builds without nvcc embed
# those whose sources have not changed since. With --check: compiles and compares with what is kept; exit code 1
# names the differences. Needs nvcc (tools/nvcc.sh) and xz.
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in ''|--check) ;; *) echo "usage: tools/prebuild.sh [--check]" >&2; exit 2 ;; esac
kept=$(mktemp -d)
trap 'rm -rf "$kept"' EXIT
[ ! -d kernels/prebuilt ] || cp -r kernels/prebuilt/. "$kept"

# build.rs does the work: it knows the sources, the flags and the hashes.
SELVEDGE_PREBUILD=1 cargo check --quiet --lib
touch build.rs # the next build embeds objects with line tables again

if [ "${1:-}" = --check ]; then
  wrong=0
  cmp -s kernels/prebuilt/MANIFEST "$kept/MANIFEST" || { diff "$kept/MANIFEST" kernels/prebuilt/MANIFEST || true; wrong=1; }
  for new in kernels/prebuilt/*.lzma; do
    old=$kept/$(basename "$new")
    # Compared unpacked: another release of xz may pack otherwise.
    cmp -s <(xz -dc "$new") <(xz -dc "$old" 2>/dev/null) || { echo "differs: $new"; wrong=1; }
  done
  rm -rf kernels/prebuilt && mkdir kernels/prebuilt && cp -r "$kept/." kernels/prebuilt
  [ $wrong = 0 ] || { echo "kernels/prebuilt is not what the sources give; run tools/prebuild.sh" >&2; exit 1; }
fi
du -sh kernels/prebuilt
