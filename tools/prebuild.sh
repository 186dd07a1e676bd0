#!/usr/bin/env bash
# Compiles every kernel with nvcc and keeps the objects, compressed, in kernels/prebuilt/: builds without nvcc embed
# those whose sources have not changed since. With --check: compiles and compares with what is kept; exit code 1
# names the differences. Needs nvcc (tools/nvcc.sh) and xz.
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in
  '') asked=write ;;
  --check) asked=check ;;
  *) echo "usage: tools/prebuild.sh [--check]" >&2; exit 2 ;;
esac

# build.rs does the work: it knows the sources, the flags and the hashes. Its folder lies where cargo's would.
out=${CARGO_TARGET_DIR:-target}/prebuild/build
mkdir -p "$out"
rustc --edition 2024 -o "$out/prebuild" build.rs
OUT_DIR=$out SELVEDGE_PREBUILT=$asked "$out/prebuild" >/dev/null
du -sh kernels/prebuilt
