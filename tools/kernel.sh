#!/usr/bin/env bash
# Compiles one kernel source for --kernel-dir: DIR/<stem>.{sm_80,sm_90a}.cubin with nvcc, DIR/<stem>.host.so with
# g++. The flags are build.rs's. Whichever compiler is missing is named and left out. Arguments: FILE.cu DIR.
set -euo pipefail
[ $# -eq 2 ] || { echo "usage: tools/kernel.sh FILE.cu DIR" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
source=$(realpath "$1")
mkdir -p "$2"
target=$(cd "$2" && pwd)/$(basename "$source" .cu)
cd "$root"

nvcc=${NVCC:-}
for candidate in "${CUDA_HOME:-}/bin/nvcc" .cuda/nvidia/cu13/bin/nvcc "$(command -v nvcc || true)"; do
  [ -n "$nvcc" ] || { [ -x "$candidate" ] && nvcc=$candidate; } || true
done
if [ -n "$nvcc" ]; then
  chips="sm_80 sm_90a"
  case $source in *_sm90.cu) chips=sm_90a ;; esac
  for chip in $chips; do
    "$nvcc" -O3 -std=c++20 -lineinfo -I kernels -gencode="arch=compute_${chip#sm_},code=$chip" --cubin \
      -Xptxas -v -o "$target.$chip.cubin" "$source"
    echo "$target.$chip.cubin"
  done
else
  echo "no nvcc (looked in \$NVCC, \$CUDA_HOME/bin, .cuda/, PATH): no .cubin; tools/nvcc.sh installs it" >&2
fi

cxx=${CXX:-g++}
if command -v "$cxx" >/dev/null; then
  "$cxx" -std=c++20 -O2 -g1 -fPIC -fvisibility=hidden -fno-gnu-unique -ffp-contract=off -fno-strict-aliasing \
    -Wno-unknown-pragmas -I kernels -shared -x c++ "$source" kernels/emulator/scheduler.cpp -o "$target.host.so"
  echo "$target.host.so"
else
  echo "no $cxx: no .host.so for the emulated device" >&2
fi
