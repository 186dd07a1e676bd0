"""Renders what the models are trained on, once.

    python data.py WORK SCENES SETS CLOSE LOOSE RICH ALONE DRESSED

WORK/scenes/NNN.npz: 1,000 scenes (pictures, packed masks, specifications). WORK/sets/NNN.npz: 250 sets
of two identities A and B: two photos of each, a scene of both, a scene of both mixed up. WORK/close/NNN.npz:
1,000 scenes of subjects that touch or overlap. WORK/loose/NNN.npz: 1,000 of pairs anywhere. WORK/rich/NNN.npz: 1,000 of
pairs with limbs, heads and hats of their own; WORK/alone/NNN.npz: 1,000 of one such subject. WORK/dressed/NNN.npz: 250 sets of two
such subjects, two thirds of one class, where mixed up means that heads, limbs or hats are swapped. WORK/soft_*: a thirteenth
of the scenes and sets and half of the rich, the alone and the dressed ones once through nano's autoencoder, as painted
pictures are soft; the close and the loose scenes as nano paints them (`repaint.py`).
"""
import json
import os
import sys
from pathlib import Path

import numpy as np

from worlds import (adorned, alone_scene, box_of, checked, close_scene, look, loose_scene, mixed, random_scene,
                    random_subject, render, rich_scene, swapped)
import toyworld  # worlds makes the folder above known

SCENES, SETS, MOST = 1000, 250, 4
#: Pictures of a set: photos of A, photos of B, both, both mixed up.
VIEWS = ("a", "a", "b", "b", "both", "mixed")


def seen_subject(rng, cls):
    """A subject for training."""
    return checked([random_subject(rng, cls=cls)])[0]


def unseen_subject(rng, cls):
    """A subject that training never renders."""
    return random_subject(rng, unseen=True, cls=cls)


def scene(seed, draw, place=random_scene):
    """One scene whose subjects can all be made out: specification, picture, masks."""
    rng = np.random.default_rng(seed)
    while True:
        spec = place(rng, draw)
        picture, masks, seen = render(spec)
        if all(s > 0.45 and m.sum() > 120 for s, m in zip(seen, masks)):
            return spec, picture, masks


def identities(rng, draw, dressed=False):
    """A, B and both mixed up; no two of the four look the same, none is held out where A and B are not.

    `dressed`: with limbs, heads and hats of their own, and only these are mixed up.
    """
    def one(cls):
        return adorned(draw(rng, cls), rng) if dressed else draw(rng, cls)

    while True:
        a = one(None)
        b = one(a["cls"] if rng.random() < (2 / 3 if dressed else 0.3) else None)
        both = swapped(a, b, rng) if dressed else mixed(a, b, rng, whole=rng.random() < 0.7)
        four = [a, b, *both]
        if len({look(s) for s in four}) == 4:
            if draw is not seen_subject:
                return four
            try:
                return checked(four)
            except ValueError:
                continue


def identity_set(seed, draw, dressed=False):
    """The pictures of `VIEWS`, the boxes of the two scenes [2, 2, 4], and the four identities."""
    rng = np.random.default_rng(seed)
    a, b, one, two = identities(rng, draw, dressed)
    pictures, boxes = [], []
    for subjects in ([a], [a], [b], [b], [a, b], [one, two]):
        spec = toyworld.random_spec(rng, subjects)
        picture, masks, _ = render(spec)
        pictures.append(picture)
        if len(masks) == 2:
            boxes.append([box_of(m) for m in masks])
    return np.stack(pictures), np.array(boxes, np.int16), [a, b, one, two]


def write(path, **arrays):
    """Through a temporary name."""
    np.savez(path + ".tmp.npz", **arrays)
    os.replace(path + ".tmp.npz", path)


def write_scenes(path, number, place=random_scene, seed=1):
    """One shard of scenes."""
    made = [scene((seed, number * SCENES + i), seen_subject, place) for i in range(SCENES)]
    masks = np.zeros((SCENES, MOST, 128, 16), np.uint8)
    for i, (_, _, own) in enumerate(made):
        masks[i, :len(own)] = np.packbits(np.stack(own), axis=-1)
    write(path, pictures=np.stack([p for _, p, _ in made]), masks=masks,
          specs=np.array([json.dumps(s) for s, _, _ in made]))


def write_close(path, number):
    """One shard of close scenes."""
    write_scenes(path, number, close_scene, 4)


def write_loose(path, number):
    """One shard of loose scenes."""
    write_scenes(path, number, loose_scene, 6)


def write_rich(path, number):
    """One shard of rich scenes."""
    write_scenes(path, number, rich_scene, 7)


def write_alone(path, number):
    """One shard of rich subjects alone."""
    write_scenes(path, number, alone_scene, 8)


def write_sets(path, number, dressed=False, seed=2):
    """One shard of identity sets."""
    made = [identity_set((seed, number * SETS + i), seen_subject, dressed) for i in range(SETS)]
    write(path, pictures=np.stack([p for p, _, _ in made]), boxes=np.stack([b for _, b, _ in made]),
          specs=np.array([json.dumps(s) for _, _, s in made]))


def write_dressed(path, number):
    """One shard of sets that differ in heads, limbs and hats."""
    write_sets(path, number, True, 9)


def soften(path, source, every):
    """Every so many pictures of a shard through the autoencoder; `rows` tells which."""
    import torch
    from diffusers import AutoencoderKL
    torch.set_num_threads(1)
    folder = Path(__file__).resolve().parents[3] / "src/assets/nano/vae"
    vae = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).eval()
    pictures = np.load(source)["pictures"].reshape(-1, 128, 128, 3)
    rows, out = np.arange(0, len(pictures), every), []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for i in range(0, len(rows), 25):
            x = torch.from_numpy(pictures[rows[i:i + 25]]).permute(0, 3, 1, 2).float() / 127.5 - 1
            latent = vae.encode(x).latent_dist.mean
            y = vae.decode(latent + 0.15 * torch.randn_like(latent)).sample.float()
            y = (y.clamp(-1, 1) * 127.5 + 128).permute(0, 2, 3, 1)
            out.append(y.clamp(0, 255).to(torch.uint8).numpy())
    write(path, rows=rows, pictures=np.concatenate(out))


def repainted(path, source):
    """Pictures of a shard as the base paints them; `rows` tells which."""
    from repaint import faithful, kept, repaint
    arrays = np.load(source)
    specs = [json.loads(s) for s in arrays["specs"]]
    rows = np.array([i for i, s in enumerate(specs) if faithful(s)])
    pictures = repaint(arrays["pictures"][rows], [specs[i] for i in rows], (5, int(Path(source).stem)))
    masks = np.unpackbits(arrays["masks"][rows], axis=-1).astype(bool)
    good = [kept(arrays["pictures"][r], p, m) for r, p, m in zip(rows, pictures, masks)]
    write(path, rows=rows[good], pictures=pictures[good])


def thirteenth(path, source):
    """A thirteenth of the pictures of a shard through the autoencoder."""
    soften(path, source, 13)


def half(path, source):
    """Half of the pictures of a shard through the autoencoder."""
    soften(path, source, 2)


#: The kinds of shards: how one is rendered, and how its soft pictures are made.
KINDS = {"scenes": (write_scenes, thirteenth), "sets": (write_sets, thirteenth),
         "close": (write_close, repainted), "loose": (write_loose, repainted),
         "rich": (write_rich, half), "alone": (write_alone, half), "dressed": (write_dressed, half)}


def main():
    """Renders the shards that are not there yet."""
    work, *counts = sys.argv[1], *map(int, sys.argv[2:])
    for second in (False, True):
        for (kind, make), count in zip(KINDS.items(), counts):
            folder = f"{work}/{'soft_' if second else ''}{kind}"
            os.makedirs(folder, exist_ok=True)
            for path in (f"{folder}/{number:03d}.npz" for number in range(count)):
                if os.path.exists(path):
                    continue
                source = f"{work}/{kind}/{Path(path).name}" if second else int(Path(path).stem)
                make[second](path, source)
                print(path, flush=True)


if __name__ == "__main__":
    main()
