#!/bin/bash
# Makes nano from nothing: scenes, vocabulary, autoencoder, latents, U-Net, subjects, grid.
#   tools/nano/run.sh WORK OUT       e.g. tools/nano/run.sh WORK src/assets/nano
# Every step is seeded and goes on where it was stopped; the minutes are the knobs. Two processes
# render; training takes OMP_NUM_THREADS threads (1, as in NOTES.md, unless set).
set -euo pipefail
if [ $# -ne 2 ]; then
    echo "usage: run.sh WORK OUT" >&2
    exit 2
fi
mkdir -p "$1" "$2"
work=$(realpath "$1") out=$(realpath "$2")
cd "$(dirname "$0")"
python=${PYTHON:-python3}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} HF_HUB_OFFLINE=1

shards=${SHARDS:-40}
"$python" toyworld.py "$work/pictures" 0 2 "$shards" &
"$python" toyworld.py "$work/pictures" 1 2 "$shards"
wait $!
"$python" tokenizer.py "$work/base"
if [ ! -d "$work/moments" ]; then
    "$python" train_vae.py --work "$work" --minutes "${VAE_MINUTES:-60}"
fi
"$python" encode.py --work "$work"
"$python" train_vae.py --work "$work" --minutes "${DECODER_MINUTES:-25}" --decoder
"$python" train_unet.py --work "$work" --out "$work/nano" --minutes "${UNET_MINUTES:-75}"
cp -r "$work"/nano/. "$out"
"$python" subjects.py "$out/subjects"
"$python" sample.py "$out" grid.png
