#!/bin/bash
# Makes the models that look at nano's pictures: scenes, detector, embedder, segmenter, CLIP, check.
#   tools/nano/see/run.sh WORK OUT       e.g. tools/nano/see/run.sh WORK src/assets/nano_eyes
# Every step is seeded and goes on where it was stopped; the budgets are steps (see NOTES.md).
set -euo pipefail
if [ $# -ne 2 ]; then
    echo "usage: run.sh WORK OUT" >&2
    exit 2
fi
mkdir -p "$1" "$2"
work=$(realpath "$1") out=$(realpath "$2")
see=$(realpath "$(dirname "$0")")
python=${PYTHON:-python3}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} HF_HUB_OFFLINE=1

"$python" "$see/data.py" "$work" "${SCENES:-60}" "${SETS:-9}" "${CLOSE:-12}" "${LOOSE:-8}" \
    "${RICH:-10}" "${ALONE:-5}" "${DRESSED:-8}"
"$python" "$see/check_heldout.py" "$work"
"$python" "$see/train_detector.py" "$work" "$out" --steps "${DETECTOR_STEPS:-19000}"
"$python" "$see/train_detector.py" "$work" "$out" --start "$out/detector" --batch 32 \
    --kinds close,loose --share 0.6 --steps "${LOOSE_STEPS:-8000}" --lr 1.2e-3
"$python" "$see/train_detector.py" "$work" "$out" --start "$out/detector" --batch 32 \
    --kinds close,loose,rich,alone --share 0.8 --steps "${ALONE_STEPS:-5000}" --lr 1e-3
"$python" "$see/train_dino.py" "$work" "$out" --steps "${DINO_STEPS:-1200}"
"$python" "$see/train_dino.py" "$work" "$out" --start "$out/dino" --dressed 0.5 \
    --steps "${DRESSED_STEPS:-700}" --lr 1e-3
"$python" "$see/train_segmenter.py" "$work" "$out" --steps "${SEGMENTER_STEPS:-1500}"
"$python" "$see/train_clip.py" "$work" "$out" --steps "${CLIP_STEPS:-800}"
"$python" "$see/train_clip.py" "$work" "$out" --start "$out/clip" --painted 0.5 --classes 0.3 \
    --steps "${PAINTED_STEPS:-800}" --lr 1e-3
"$python" "$see/check.py" "$out"
