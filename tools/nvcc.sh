#!/usr/bin/env bash
# Installs the CUDA compiler (no GPU, no root, no driver needed) into .cuda/, where build.rs looks.
# Needs python3 with pip; compiling then also needs gcc/g++. About 280 MB on disk. Arguments: [--nvrtc] [FOLDER].
# --nvrtc adds the run-time compiler that --kernel-source uses on a GPU (another 220 MB).
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
nvrtc=
if [ "${1:-}" = --nvrtc ]; then
  nvrtc=yes
  shift
fi
target=${1:-$root/.cuda}
nvcc=$target/nvidia/cu13/bin/nvcc

if ! python3 -m pip --version >/dev/null 2>&1; then
  echo "tools/nvcc.sh: python3 with pip is needed; install python3-pip (Debian, Ubuntu: apt install python3-pip)" >&2
  exit 2
fi
if ! command -v g++ >/dev/null; then
  echo "tools/nvcc.sh: g++ is needed by nvcc; install it (Debian, Ubuntu: apt install g++)" >&2
  exit 2
fi
if [ -x "$nvcc" ] && "$nvcc" --version | grep -q 'V13\.0\.88'; then
  echo "$nvcc is already 13.0.88"
else
  # --no-deps: the wheels' own requirements are not pinned and would mix toolkits.
  python3 -m pip install -q --disable-pip-version-check --no-cache-dir --no-deps --upgrade --target "$target" \
    nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 \
    nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 \
    nvidia-cuda-cuobjdump==13.2.51 nvidia-cuda-nvdisasm==13.2.51
  "$nvcc" --version | tail -2
fi
if [ -n "$nvrtc" ] && [ ! -e "$target/nvidia/cu13/lib/libnvrtc.so.13" ]; then
  python3 -m pip install -q --disable-pip-version-check --no-cache-dir --no-deps --upgrade --target "$target/nvrtc" \
    nvidia-cuda-nvrtc==13.0.88
  # pip replaces a whole package folder of its target; the library moves to where nvcc's own lie.
  cp -a "$target"/nvrtc/nvidia/cu13/lib/. "$target/nvidia/cu13/lib/"
  rm -rf "$target/nvrtc"
fi
touch "$root/build.rs" # the next cargo build looks for nvcc again
