"""Measures the exported models through the program: `segment` and `score` on unseen scenes.

    python check_binary.py EYES BINARY WORK [COUNT]

The same scenes as check.py; COUNT scenes of one subject and COUNT of two, COUNT pairs for
Detect-and-Compare, and 12 captions for every 16.
"""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from check import NMS, SEED, plain_noun, scenes
from data import identity_set, unseen_subject
from look import auroc
from train_clip import caption


def save(path, picture):
    """A PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def subjects_file(path, subjects):
    """A subjects file: (id, class words) with the pictures in the folder of the same name."""
    path.write_text("\n".join(
        f'[[subject]]\nid = "{name}"\ntoken = "{token}"\nclass = "{words}"\nimages = "{name}"\n'
        for name, words, token in subjects), encoding="utf-8")


def run(binary, *arguments):
    """The program's output; `segment` may find nothing, or too much, in a photo."""
    done = subprocess.run([binary, *map(str, arguments), "--device", "cpu", "--threads", "1"],
                          capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1) or (done.returncode and "nothing like" not in done.stderr
                                         and "boxes like" not in done.stderr):
        raise RuntimeError(done.stderr[-2000:])
    return done.stdout


def segmented(binary, eyes, work, count):
    """The one-box rule and the masks of `segment`, for scenes of one and two subjects."""
    result = {}
    for number in (1, 2):
        folder, truth, listed = work / f"segment{number}", {}, []
        for i, (spec, picture, masks) in enumerate(scenes(count, number)):
            nouns = [plain_noun(s) for s in spec["subjects"]]
            for k, noun in enumerate(nouns):
                if nouns.count(noun) == 1:
                    name = f"s{i:03d}{'ab'[k]}"
                    save(folder / name / "0.png", picture)
                    truth[name] = masks[k]
                    listed.append((name, noun, "olis"))
        done = []
        for name, noun, _ in listed:  # one call a photo: a subjects file wants tokens of its own
            run(binary, "segment", folder / name / "0.png", "--query", noun, "--out", folder / name,
                "--force", "--detector", eyes / "detector", "--segmenter", eyes / "segmenter",
                "--nms", str(NMS))
            path = folder / name / "0_mask.png"
            if path.exists():
                mask = np.asarray(Image.open(path)) > 128
                done.append((mask & truth[name]).sum() / (mask | truth[name]).sum())
        result[number] = {"asked": len(listed), "one box": round(len(done) / len(listed), 3),
                          "right (IoU .5)": round(float(sum(d > 0.5 for d in done)) / len(listed), 3),
                          "mask IoU": round(float(np.mean(done)), 4) if done else None}
    return result


def mixing(binary, eyes, work, count):
    """AUROC of Detect-and-Compare as `score` gives it, boxes found by the classes."""
    rows = {"dc": ([], []), "spectral": ([], [])}
    for i in range(count):
        pictures, _, (a, b, _, _) = identity_set((SEED, 3, i), unseen_subject)
        folder = work / f"pair{i:03d}"
        for k, view in enumerate(("a", "a", "b", "b", "scenes", "scenes")):
            save(folder / view / f"{k}.png", pictures[k])
        subjects_file(folder / "subjects.toml", [("a", plain_noun(a), "olis"), ("b", plain_noun(b), "hta")])
        queries = [v for c in {a["cls"], b["cls"]} for v in ("--query", c)]
        out = json.loads(run(binary, "score", "--images", folder / "scenes", "--subjects",
                             folder / "subjects.toml", "--detector", eyes / "detector",
                             "--nms", str(NMS), "--dinov2", eyes / "dino", *queries, "--json"))
        for kind, name in (("dc", "dc"), ("spectral", "dc_spectral")):
            for scene, shot in enumerate(out["images"]):
                rows[kind][scene].append(shot[name])
    return {k: round(auroc(*v), 4) for k, v in rows.items()} | {"pairs": count}


def texts(binary, eyes, work, groups):
    """In groups of 12 scenes: how often the right caption's score is the highest."""
    made, rng, hits = scenes(12 * groups, 2), np.random.default_rng(SEED), 0
    for g in range(groups):
        part, scores = made[12 * g:12 * g + 12], np.zeros((12, 12))
        folder = work / f"texts{g}"
        for i, (_, picture, _) in enumerate(part):
            save(folder / "pictures" / f"{i:02d}.png", picture)
            save(folder / "a" / f"{i:02d}.png", picture)
        subjects_file(folder / "subjects.toml", [("a", "toy", "olis")])
        for j, (spec, _, _) in enumerate(part):
            out = json.loads(run(binary, "score", "--images", folder / "pictures", "--subjects",
                                 folder / "subjects.toml", "--clip", eyes / "clip", "--prompt",
                                 caption(spec, rng), "--json"))
            scores[:, j] = [shot["clip_score"] for shot in out["images"]]
        hits += int((scores.argmax(1) == np.arange(12)).sum())
    return {"12 scenes": round(hits / (12 * groups), 3), "pictures": 12 * groups}


def main():
    """Prints every number."""
    eyes, binary, work = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    count = int(sys.argv[4]) if len(sys.argv) > 4 else 64
    print("segment", segmented(binary, eyes, work, count), flush=True)
    print("mixing", mixing(binary, eyes, work, count), flush=True)
    print("texts", texts(binary, eyes, work, max(count // 16, 1)), flush=True)


if __name__ == "__main__":
    main()
