#!/bin/bash
# Makes nano from nothing: scenes, vocabulary, autoencoder, latents, U-Net, subjects, grid, hashes.
#   tools/nano/run.sh WORK OUT       e.g. tools/nano/run.sh WORK src/assets/nano
# Every stage is seeded, counts its budget in steps and goes on where it was stopped, with the same
# batches. Training takes OMP_NUM_THREADS threads (1, as in NOTES.md, unless set). To end a run
# early, stop it and call this again with UNET_STEPS = the steps done + DECAY.
set -euo pipefail
if [ $# -ne 2 ]; then
    echo "usage: run.sh WORK OUT" >&2
    exit 2
fi
mkdir -p "$1/base" "$2"
work=$(realpath "$1") out=$(realpath "$2")
nano=$(realpath "$(dirname "$0")")
python=${PYTHON:-python3}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} HF_HUB_OFFLINE=1

first=12 shards=${SHARDS:-60}  # the autoencoder sees 12 shards; the others are drawn meanwhile
"$python" "$nano/toyworld.py" "$work/pictures" 0 1 "$first"
"$python" "$nano/toyworld.py" "$work/pictures" "$first" 1 "$shards" &
rendering=$!
"$python" "$nano/tokenizer.py" "$work/base"
# Planned with 10,000 steps and shortened at 2,000, when the machine had turned out to be busy.
"$python" -u "$nano/train_vae.py" --work "$work" --shards "$first" --steps 10000 --stop 2000
"$python" -u "$nano/train_vae.py" --work "$work" --shards "$first" --steps 7000
wait "$rendering"
"$python" "$nano/encode.py" --work "$work" --shards "$shards"
"$python" -u "$nano/train_unet.py" --work "$work" --out "$work/nano" \
    --steps "${UNET_STEPS:-9000}" --decay "${DECAY:-3000}"
cp -r "$work"/nano/. "$out"
"$python" "$nano/subjects.py" "$out/subjects"
"$python" "$nano/sample.py" "$out" "$work/grid.png"
(cd "$work" && sha256sum pictures/*.txt pictures/*.npy moments/*.pt) > "$work/data.sha256"
(cd "$out" && find . -type f ! -path './subjects/*' | LC_ALL=C sort | xargs sha256sum) \
    > "$work/nano.sha256"
echo "done: $out, $work/grid.png, $work/data.sha256, $work/nano.sha256"
