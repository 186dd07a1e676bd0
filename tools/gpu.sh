#!/usr/bin/env bash
# Everything a GPU machine can tell, in nine minutes by construction: one budget of seconds that the parts draw from, most
# important first. A part that fails, or is cut at its own limit or at the end of the budget, is one line; what it had
# written stays. Results: benches/results/DATE-CHIP/, results.md is the table of all of them.
#
#   tools/gpu.sh [BINARY]      BINARY: a selvedge built elsewhere (default target/release/selvedge); no toolkit is needed here
#
# PYTHON (python3) should have torch; diffusers, transformers and peft may lie unpacked in $WHEELS. OUT changes the folder,
# BUDGET the seconds. DEVICE=emulated tries the script without a GPU: few small cases, peers on the CPU in tiny shapes.
set -uo pipefail
cd "$(dirname "$0")/.."
bin=${1:-target/release/selvedge} python=${PYTHON:-python3} device=${DEVICE:-cuda} budget=${BUDGET:-540}
reserve=5 # seconds kept for the report
[ -x "$bin" ] || { echo "$bin: no such program; build it with cargo build --release, or carry one here" >&2; exit 2; }
if [ "$device" = cuda ] && ! command -v nvidia-smi >/dev/null; then
  echo "tools/gpu.sh: no nvidia-smi here; DEVICE=emulated tries the script without a GPU" >&2
  exit 2
fi
chip=emulated
[ "$device" = emulated ] || chip=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1 | tr -c 'A-Za-z0-9\n' '-')
out=${OUT:-benches/results/$(date -u +%Y-%m-%d)-$chip}
mkdir -p "$out"
: >"$out/parts.tsv"
begin=$SECONDS
failed=0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# part LIMIT FILE COMMAND...: stdout into FILE, for at most LIMIT seconds and never longer than the budget lasts.
part() {
  local own=$1 name=$2 file=$out/$2 start=$SECONDS left limit rc state
  shift 2
  left=$((budget - reserve - (SECONDS - begin)))
  limit=$((own < left ? own : left))
  if [ "$limit" -lt 1 ]; then
    state="left out, the budget of $budget s is spent"
  else
    timeout --kill-after=2 "$limit" "$@" >"$file" 2>"$file.err" </dev/null
    rc=$?
    case $rc in
      0) state=ok ;;
      124 | 137) state="cut after $limit s" ;;
      *) state="failed with $rc: $(tail -1 "$file.err" | tr '\t' ' ')" ;;
    esac
    [ -s "$file.err" ] || rm -f "$file.err"
  fi
  [ "$state" = ok ] || failed=1
  echo "$name: $state, $((SECONDS - start)) s"
  printf '%s\t%s\t%s\n' "$name" "$((SECONDS - start))" "$state" >>"$out/parts.tsv"
}

peers() { # LIMIT PART [MORE...]: what torch needs for the same work
  local limit=$1 what=$2
  shift 2
  part "$limit" "peers-$what.txt" "$python" tools/gpu_peers.py --part "$what" --out "$out/peers-$what.jsonl" \
    --seconds $((limit - 3)) --wheels "${WHEELS:-}" "$@"
}

# Twenty steps of nano with a flag and without: $1 the program, $2 the flag, $3 a folder.
same_bits='set -e
"$1" quickstart --device cuda --steps 20 --count 1 --out "$3/plain"
"$1" quickstart --device cuda --steps 20 --count 1 --out "$3/flag" "$2"
cmp "$3/plain/mudi/adapter.safetensors" "$3/flag/mudi/adapter.safetensors"
echo "the same bits"'

if [ "$device" = cuda ]; then
  step=("$bin" bench step --model sdxl --latent 128 --device cuda --json)
  fields=name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,memory.total
  part 10 machine.csv nvidia-smi --query-gpu=$fields --format=csv
  part 85 check.jsonl "$bin" kernels check --device cuda --json
  # Kernels against torch: attention, products with and without adapters, convolutions, norms.
  for op in attention linear conv2d norm; do
    part 30 "kernels-$op.jsonl" "$bin" kernels bench --device cuda --op $op --json
  done
  peers 90 operations
  # SDXL: forward, training steps with their memory.
  part 40 step-denoise-2.json "${step[@]}" --batch 2 --part denoise --iterations 10
  part 40 step-train-1.json "${step[@]}" --batch 1 --part train --iterations 8 --trace "$out/train-1.trace.json"
  part 40 step-train-4.json "${step[@]}" --batch 4 --part train --iterations 6
  peers 75 steps
  # Thirty steps to a picture of 1024 x 1024, the same random weights on both sides.
  part 20 nano.txt "$bin" export nano "$scratch/nano"
  peers 45 save --folder "$scratch/sdxl" --tokenizer "$scratch/nano/tokenizer"
  picture=("$bin" generate --base "$scratch/sdxl" --prompt "a photo of a bear" --steps 30 --guidance 5 --device cuda --out)
  part 40 picture-1.txt "${picture[@]}" "$out/pictures-1" --count 1
  part 40 picture-3.txt "${picture[@]}" "$out/pictures-3" --count 3
  peers 45 picture --folder "$scratch/sdxl"
  # Adapters in the launches of their layers against launches of their own; kernels that start while the one before ends.
  part 30 step-train-4-before.json "${step[@]}" --batch 4 --part train --iterations 6 --variant lora_linear.adapter=before
  part 30 step-train-4-programmatic.json "${step[@]}" --batch 4 --part train --iterations 6 --programmatic
  part 20 step-denoise-2-programmatic.json "${step[@]}" --batch 2 --part denoise --iterations 10 --programmatic
  # Attention's backward pass in five products, dQ added in order, against seven.
  part 30 step-train-4-once.json "${step[@]}" --batch 4 --part train --iterations 6 --variant attention.backward=sm90_once
  part 30 variants-attention.jsonl "$bin" kernels bench --device cuda --op attention --dtype bf16 \
    --compare attention.backward=sm90,sm90_once --json
  # Attention's forward pass: today's blocks of 128 keys against blocks of 192, P in shared memory, and polynomials.
  for other in sm90_m192_n192 sm90_n192_poly; do
    part 20 "variants-attention-$other.jsonl" "$bin" kernels bench --device cuda --op attention --dtype bf16 --pass forward \
      --compare attention.forward=sm90_m192,$other --json
  done
  # The shortcuts behind skip connections: both parts read where they lie against a copy.
  part 20 variants-concat.jsonl "$bin" kernels bench --device cuda --op "linear of two parts" --dtype bf16 \
    --compare linear.concat=sm90,copied --json
  part 30 programmatic.txt bash -c "$same_bits" - "$bin" --programmatic "$scratch"
  peers 60 compiled
  # The rest of the kernels, and the whole job.
  part 60 kernels.jsonl "$bin" kernels bench --device cuda --json
  part 60 launch.jsonl "$bin" kernels bench --device cuda --op noise --dtype f32 --launcher cust --json
  part 60 quickstart.txt "$bin" quickstart --device cuda --out "$out/quickstart"
else
  part 300 check.jsonl "$bin" kernels check --device emulated --op "${OP:-activation}" --json
  part 120 "kernels-${OP:-activation}.jsonl" "$bin" kernels bench --device emulated --op "${OP:-activation}" --iterations 2 --json
  peers 60 operations --dry
fi
# The report reads what is there, whatever was cut.
timeout --kill-after=2 20 "$python" tools/gpu_report.py "$out" || failed=1
echo "$out: $((SECONDS - begin)) s"
exit $failed
