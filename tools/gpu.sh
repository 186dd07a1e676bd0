#!/usr/bin/env bash
# Everything a GPU machine can tell, in at most nine minutes: correctness of every case on the device, kernel times beside
# torch's in the same run, SDXL steps with random weights, the whole MuDI job. Results: benches/results/DATE-CHIP/.
#
#   tools/gpu.sh [BINARY]      BINARY: a selvedge built elsewhere (default target/release/selvedge); no toolkit is needed here
#
# PYTHON (python3) should have torch; diffusers and peft may lie unpacked in $WHEELS. OUT changes the folder.
# DEVICE=emulated tries the script without a GPU: small cases, no peers.
set -uo pipefail
cd "$(dirname "$0")/.."
bin=${1:-target/release/selvedge} python=${PYTHON:-python3} device=${DEVICE:-cuda}
[ -x "$bin" ] || { echo "$bin: no such program; build it with cargo build --release, or carry one here" >&2; exit 2; }
if [ "$device" = cuda ] && ! command -v nvidia-smi >/dev/null; then
  echo "tools/gpu.sh: no nvidia-smi here; DEVICE=emulated tries the script without a GPU" >&2
  exit 2
fi
chip=emulated
[ "$device" = emulated ] || chip=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1 | tr -c 'A-Za-z0-9\n' '-')
out=${OUT:-benches/results/$(date -u +%Y-%m-%d)-$chip}
mkdir -p "$out"
begin=$SECONDS
failed=0

# part SECONDS FILE COMMAND...: stdout into FILE, stopped after SECONDS; a failure is reported and the rest goes on.
part() {
  local limit=$1 file=$out/$2 start=$SECONDS
  shift 2
  timeout --kill-after=5 "$limit" "$@" >"$file" 2>"$file.err"
  local rc=$?
  echo "$(basename "$file"): rc $rc, $((SECONDS - start)) s"
  [ $rc = 0 ] || { failed=1; tail -3 "$file.err"; }
  [ -s "$file.err" ] || rm -f "$file.err"
}

if [ "$device" = cuda ]; then
  part 10 machine.csv nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,memory.total --format=csv
  part 90 check.jsonl "$bin" kernels check --device cuda --json
  part 100 kernels.jsonl "$bin" kernels bench --device cuda --json
  part 60 denoise-2.json "$bin" bench step --model sdxl --latent 128 --batch 2 --part denoise --iterations 10 --device cuda --json
  part 60 train-1.json "$bin" bench step --model sdxl --latent 128 --batch 1 --part train --iterations 8 --device cuda --json --trace "$out/train-1.trace.json"
  part 60 train-4.json "$bin" bench step --model sdxl --latent 128 --batch 4 --part train --iterations 6 --device cuda --json
  part 60 quickstart.txt "$bin" quickstart --device cuda --out "$out/quickstart"
  part 200 peers.txt "$python" tools/gpu_peers.py --out "$out/peers.jsonl" --seconds 190 --wheels "${WHEELS:-}"
else
  part 300 check.jsonl "$bin" kernels check --device emulated --op "${OP:-activation}" --json
  part 120 kernels.jsonl "$bin" kernels bench --device emulated --small --op "${OP:-activation}" --iterations 2 --json
fi
"$python" tools/gpu_report.py "$out" || failed=1
echo "$out: $((SECONDS - begin)) s"
exit $failed
