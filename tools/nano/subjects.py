"""Writes the example subjects: two pairs that training never saw, five pictures each, and one on one background.

    python subjects.py ../../src/assets/nano/subjects

For every subject: NN.png, NN_mask.png (exact, white = subject), NN.txt (caption); for every pair:
subjects.toml in the words of a training configuration (paths relative to that file).
"""
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import toyworld

PICTURES = 5
SEED = 7


def write_subject(folder, subject, seed):
    """Renders one subject in five places; the plain one and the beach are left for prompts."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    places = [b for b in toyworld.BACKGROUNDS if b not in ("white", "beach")]
    for i, place in enumerate(rng.permutation(places)[:PICTURES], start=1):
        spec = toyworld.random_spec(rng, [subject["look"]], str(place))
        picture, masks = toyworld.render(spec)
        Image.fromarray(picture).save(folder / f"{i:02d}.png", optimize=True)
        mask = Image.fromarray(masks[0].astype(np.uint8) * 255)
        mask.save(folder / f"{i:02d}_mask.png", optimize=True)
        name = f"{subject['token']} {subject['class']}"
        caption = f"A photo of a {name}, {toyworld.BACKGROUNDS[str(place)]}.\n"
        (folder / f"{i:02d}.txt").write_text(caption, encoding="utf-8")


def write_one_place(folder, subject=toyworld.HELDOUT["robot_duck"][1], place="grass"):
    """A subject (the duck) five times on the same patch of a place, without captions."""
    rng = np.random.default_rng(21)
    (folder / "a").mkdir(parents=True, exist_ok=True)
    same = toyworld.random_spec(rng, [subject["look"]], place)
    for i in range(1, PICTURES + 1):
        spec = toyworld.random_spec(rng, [subject["look"]], place)
        picture, masks = toyworld.render(dict(spec, hz=same["hz"], seed=same["seed"]))
        Image.fromarray(picture).save(folder / "a" / f"{i:02d}.png", optimize=True)
        mask = Image.fromarray(masks[0].astype(np.uint8) * 255)
        mask.save(folder / "a" / f"{i:02d}_mask.png", optimize=True)
    words = (f'id = "a"\ntoken = "lun"\nclass = "{subject["class"]}"\nquery = "{subject["look"]["cls"]}"\n'
             'images = "a"\n')
    (folder / "subjects.toml").write_text(f"[[subject]]\n{words}", encoding="utf-8")


def main():
    """Writes every held-out pair under the folder named on the command line."""
    root = Path(sys.argv[1])
    write_one_place(root / "one_place")
    for pair, subjects in toyworld.HELDOUT.items():
        blocks = []
        for number, subject in enumerate(subjects):
            identity = "ab"[number]
            write_subject(root / pair / identity, subject, SEED + 100 * number)
            blocks.append(f'[[subject]]\nid = "{identity}"\ntoken = "{subject["token"]}"\n'
                          f'class = "{subject["class"]}"\nquery = "{subject["look"]["cls"]}"\nimages = "{identity}"\n')
        (root / pair / "subjects.toml").write_text("\n".join(blocks), encoding="utf-8")


if __name__ == "__main__":
    main()
