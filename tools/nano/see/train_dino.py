"""Trains the embedder of identities: a DINOv2, by contrast. See `loop.py` for the command line.

With --start FOLDER --dressed SHARE it goes on from exported weights, with that share of sets whose mixtures differ from
their subjects in heads, limbs and hats alone.

It begins as the detector's picture tower. A batch holds sets of two identities: photos, crops as
Detect-and-Compare makes them, and crops of both mixed up, which are identities of their own. What is
compared is what Detect-and-Compare compares: the mean of all tokens.
"""
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import Dinov2Model

from eyes import IMAGENET_STD, CLIP_STD, normalized
from loop import Run, arguments, exported
from pictures import Shards, augmented, flipped, to_float
from queries import FIELDS, TABLES, code

#: Pictures of a set (data.VIEWS) and which box, as (view, box or None, identity).
PARTS = ((0, None, 0), (1, None, 0), (4, 0, 0), (2, None, 1), (3, None, 1), (4, 1, 1),
         (5, 0, 2), (5, 1, 3))
NAMES = {"self_attn.out_proj": "attention.o_proj", "self_attn": "attention", "layer_norm1": "norm1",
         "layer_norm2": "norm2", "encoder.layers": "encoder.layer", "post_layernorm": "layernorm"}


def square(picture, box):
    """A crop in the middle of a white square of its longer side, resized to 128."""
    x0, y0, x1, y1 = (int(round(v)) for v in box)
    cut = Image.fromarray(picture).crop((x0, y0, x1, y1))  # black outside the picture
    side = max(cut.size)
    out = Image.new("RGB", (side, side), (255, 255, 255))
    out.paste(cut, ((side - cut.width) // 2, (side - cut.height) // 2))
    return np.asarray(out.resize((128, 128), Image.BICUBIC))


def from_detector(work):
    """A function that sets the tower to the detector's, whose first normalization has no place here."""
    def prepare(model):
        saved = torch.load(f"{work}/detector.pt")["parts"]
        prefix = "model.owlv2.vision_model."
        saved = {k.removeprefix(prefix): v for k, v in saved.items() if k.startswith(prefix)}
        own = model.state_dict()
        for name, value in saved.items():
            for a, b in NAMES.items():
                name = name.replace(a, b)
            if name in own:
                own[name].copy_(value)
        # tokens get about the size that the normalization would give them
        gain = saved["pre_layernorm.weight"]
        patch = saved["embeddings.patch_embedding.weight"] * CLIP_STD[0] / IMAGENET_STD[0]
        places, first = saved["embeddings.position_embedding.weight"], saved["embeddings.class_embedding"]
        size = (places[1:].var(-1).mean() + 0.5 * patch.flatten(1).pow(2).sum(1).mean()).sqrt()
        own["embeddings.patch_embeddings.projection.weight"].copy_(
            patch * gain[:, None, None, None] / size)
        own["embeddings.patch_embeddings.projection.bias"].zero_()
        own["embeddings.position_embeddings"].copy_((places * gain / size)[None])
        own["embeddings.cls_token"].copy_((first * gain / size).view(1, 1, -1))
    return prepare


def batch(data, rng, sets):
    """Pictures [8 sets, 3, 128, 128], their identities, attribute codes."""
    chosen = rng.integers(0, len(data), sets)
    pictures, who, codes = [], [], []
    for n, i in enumerate(chosen):
        views = data.take(np.arange(6) + 6 * i, rng)
        for view, k, identity in PARTS:
            picture = views[view]
            if k is not None:
                x0, y0, x1, y1 = data.arrays["boxes"][i, view - 4, k]
                jitter = rng.normal(0, 0.03, 4) * [x1 - x0, y1 - y0, x1 - x0, y1 - y0]
                picture = square(picture, np.array([x0, y0, x1, y1]) + jitter)
            pictures.append(picture)
            who.append(4 * n + identity)
            codes.append(code(data.specs[i][identity]))
    return np.stack(pictures), torch.tensor(who), torch.tensor(codes)


def both(data, rng):
    """A batch of so many sets of each kind; identities are told apart across kinds too."""
    parts, first = [], 0
    for shards, sets in data:
        pictures, who, codes = batch(shards, rng, sets)
        parts.append((pictures, who + first, codes))
        first += 4 * sets
    pictures, who, codes = zip(*parts)
    return np.concatenate(pictures), torch.cat(who), torch.cat(codes)


def contrast(embeds, who, temperature=0.1):
    """Each picture against all others; those of its identity are right."""
    logits = embeds @ embeds.T / temperature
    logits = logits - 1e4 * torch.eye(len(who))
    right = (who[:, None] == who[None]).float() - torch.eye(len(who))
    log = logits.log_softmax(1)
    some = right.sum(1) > 0
    return -((log * right).sum(1)[some] / right.sum(1)[some]).mean()


def main():
    """Trains."""
    args = arguments(steps=1200, batch=64, lr=2e-3, **{
        "--dressed": dict(type=float, default=0.0, help="share of sets that differ in heads, limbs and hats"),
        "--start": dict(help="begin with the weights of this exported folder")})
    sizes = {f: len(TABLES[f]) for f in FIELDS[:5]}
    heads = {f: torch.nn.Linear(128, n) for f, n in sizes.items()}
    prepare = exported(Dinov2Model, args.start) or from_detector(args.work)
    run = Run("dino", args, heads, prepare=prepare, stage="_dressed" if args.start else "")
    sets = args.batch // 8
    part = int(round(sets * args.dressed))
    data = [(Shards(args.work, kind), n) for kind, n in (("sets", sets - part), ("dressed", part)) if n]

    def loss_of():
        pictures, who, codes = both(data, run.rng)
        x = flipped(augmented(to_float(pictures)), torch.rand(len(who)) < 0.5)
        with torch.autocast("cpu", torch.bfloat16):
            tokens = run.model(pixel_values=normalized("dino", x)).last_hidden_state
            mean = tokens.float().mean(1)
            guesses = {f: head(mean).float() for f, head in run.heads.items()}
        named = sum(F.cross_entropy(g, codes[:, i]) for i, g in enumerate(guesses.values()))
        return {"contrast": contrast(F.normalize(mean, dim=-1), who), "named": 0.1 * named}

    run.train(loss_of)


if __name__ == "__main__":
    main()
