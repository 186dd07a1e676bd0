"""Trains the detector: OWLv2 with nano's text tower. See `loop.py` for the command line.

With --start FOLDER --kinds KIND,.. --share SHARE it goes on from exported weights, with that share of other scenes
(`data.py`, each kind as often), most of them as the base paints them or through its autoencoder.

Each subject belongs to one patch: of those inside its box the one that does best so far (score and
overlap), so that a trained model gives one box a subject without any suppression. The batch shares a
pool of queries. Heads that only training has name the attributes of each patch's subject.
"""
import numpy as np
import torch
import torch.nn.functional as F
from transformers import Owlv2ForObjectDetection

from eyes import END, QUERY, normalized
from loop import Run, arguments, exported
from pictures import Shards, augmented, flipped, to_float
from queries import FIELDS, TABLES, code, matches, pool
from tokenizer import Tokenizer
from worlds import box_of
from eyes import TOKENIZER

GRID, MOST = 8, 4


def features(model, pixels):
    """Patches [n, 64, d] as the heads take them."""
    embeds, _ = model.image_embedder(pixels)
    return embeds.flatten(1, 2)


def query_embeds(model, tokenizer, texts):
    """[q, e] of length 1, with positions cut to the longest text."""
    ids = tokenizer(texts)[0][:, :QUERY]
    length = int((ids != END).sum(1).max()) + 1
    ids = ids[:, :length]
    ends = (ids == END).int().argmax(1)
    mask = (torch.arange(length) <= ends[:, None]).long()
    ids = ids * mask
    out = model.owlv2.text_model(input_ids=ids, attention_mask=mask)
    return F.normalize(model.owlv2.text_projection(out.pooler_output).float(), dim=-1)


def corners(boxes):
    """(cx, cy, w, h) -> (x0, y0, x1, y1)."""
    c, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([c - half, c + half], -1)


def overlap(a, b):
    """IoU and generalized IoU of boxes given by their corners."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    both = (high - low).clamp(min=0).prod(-1)
    area = [(v[..., 2:] - v[..., :2]).clamp(min=0).prod(-1) for v in (a, b)]
    union = area[0] + area[1] - both + 1e-7
    hull = (torch.maximum(a[..., 2:], b[..., 2:])
            - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1) + 1e-7
    iou = both / union
    return iou, iou - (hull - union) / hull


def box_loss(found, wanted):
    """L1 of centre and size, and generalized IoU, for each box."""
    _, general = overlap(corners(found), corners(wanted))
    return 5 * (found - wanted).abs().sum(-1) + 2 * (1 - general)


@torch.no_grad()
def assign(scores, boxes, wanted, there):
    """The patch of each subject [n, MOST]: inside its box, best by score and overlap, no patch twice."""
    n = len(wanted)
    at = (torch.arange(GRID) + 0.5) / GRID
    places = torch.stack([at.repeat(GRID), at.repeat_interleave(GRID)], -1)
    away = (places - wanted[:, :, None, :2]).abs() / (wanted[:, :, None, 2:] / 2 + 0.03)
    inside = (away < 1).all(-1).float()
    iou, _ = overlap(corners(boxes)[:, None], corners(wanted)[:, :, None])
    near = torch.exp(-2 * away.square().sum(-1))
    quality = (inside + 1e-6) * scores.transpose(1, 2) ** 0.3 * (iou + 0.05) ** 0.7 * near ** 0.3
    best = torch.zeros(n, MOST, dtype=torch.long)
    rows = torch.arange(n)
    for k in range(MOST):
        best[:, k] = quality[:, k].argmax(-1)
        quality[rows, :, best[:, k]] *= (1 - there[:, k:k + 1].float())
    return best


class Scenes:
    """Pictures with boxes, attribute codes and the subject of every patch."""

    def __init__(self, work, kind, painted=0.0):
        self.shards, self.painted = Shards(work, kind), painted
        n = len(self.shards)
        self.boxes, self.codes = torch.zeros(n, MOST, 4), torch.zeros(n, MOST, len(FIELDS)).long()
        self.there = torch.zeros(n, MOST, dtype=torch.bool)
        self.covers = torch.zeros(n, MOST, GRID * GRID)
        for i, spec in enumerate(self.shards.specs):
            for k, subject in enumerate(spec["subjects"]):
                mask = self.mask(i, k)
                x0, y0, x1, y1 = (v / 128 for v in box_of(mask))
                self.boxes[i, k] = torch.tensor([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0])
                self.codes[i, k], self.there[i, k] = torch.tensor(code(subject)), True
                cells = mask.reshape(GRID, 16, GRID, 16).mean((1, 3))
                self.covers[i, k] = torch.from_numpy(cells).flatten()

    def mask(self, i, k):
        """The visible mask of a subject."""
        return np.unpackbits(self.shards.arrays["masks"][i, k], axis=-1).astype(bool)

    def batch(self, rng, n):
        """Augmented pictures and what is in them."""
        rows = rng.integers(0, len(self.shards), n)
        if self.painted:
            soft = rng.choice(np.flatnonzero(self.shards.soft >= 0), n)
            rows = np.where(rng.random(n) < self.painted, soft, rows)
        mirror = torch.from_numpy(rng.random(n) < 0.5)
        x = flipped(augmented(to_float(self.shards.take(rows, rng))), mirror)
        boxes, covers = self.boxes[rows].clone(), self.covers[rows].view(n, MOST, GRID, GRID)
        boxes[..., 0] = torch.where(mirror[:, None], 1 - boxes[..., 0], boxes[..., 0])
        covers = flipped(covers, mirror).flatten(2)
        specs = [s for i in rows for s in self.shards.specs[i]["subjects"]]
        return x, boxes, self.codes[rows], self.there[rows], covers, specs


def main():
    """Trains."""
    args = arguments(steps=19000, batch=48, lr=2.5e-3, **{
        "--kinds": dict(default="", help="other kinds of scenes, with commas between them; the last one names the stage"),
        "--share": dict(type=float, default=0.0, help="their share"),
        "--start": dict(help="begin with the weights of this exported folder")})
    kinds = [k for k in args.kinds.split(",") if k]
    sizes = {f: len(TABLES[f]) for f in FIELDS[:5]}
    run = Run("detector", args, {f: torch.nn.Linear(128, n) for f, n in sizes.items()},
              exported(Owlv2ForObjectDetection, args.start), f"_{kinds[-1]}" if kinds else "")
    each = int(round(args.batch * args.share / max(len(kinds), 1)))
    shares = {"scenes": args.batch - each * len(kinds), **dict.fromkeys(kinds, each)}
    data = [(Scenes(args.work, kind, 0.0 if kind == "scenes" else 0.7), n) for kind, n in shares.items() if n]
    tokenizer = Tokenizer(str(TOKENIZER))
    model, picture = run.model, torch.arange(args.batch)[:, None].expand(-1, MOST)

    def loss_of():
        parts = zip(*(scenes.batch(run.rng, n) for scenes, n in data))
        *parts, subjects = parts
        x, wanted, codes, there, covers = map(torch.cat, parts)
        subjects = sum(subjects, [])
        queries, texts = pool(subjects, run.rng, 18)
        match = matches(queries, codes) & there[..., None]  # [n, MOST, q]
        with torch.autocast("cpu", torch.bfloat16):
            patches = features(model, normalized("detector", x))
            text = query_embeds(model, tokenizer, texts)
            boxes = torch.sigmoid(model.box_head(patches).float() + model.box_bias)
            objects = model.objectness_predictor(patches).float()
            guesses = {f: head(patches).float() for f, head in run.heads.items()}
        logits, embeds = model.class_predictor(patches.float(), text)
        share = match.float()
        scores = torch.einsum("npq,nkq->npk", logits.detach().sigmoid(), share)
        best = assign(scores / share.sum(-1)[:, None].clamp(min=1), boxes.detach(), wanted, there)
        target = torch.zeros_like(logits)
        target[picture[there], best[there]] = share[there]
        truth = torch.zeros_like(objects)
        truth[picture[there], best[there]] = 1
        count = there.sum()
        p = logits.sigmoid()
        hard = (p - target).abs()
        score = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * hard
        # every patch mostly on a subject learns its box, its likeness to the queries, its attributes
        most, owner = (covers * there[..., None]).max(1)
        on = most > 0.3
        rows, cells = on.nonzero(as_tuple=True)
        mine = owner[rows, cells]
        cosine = F.normalize(embeds.float()[rows, cells], dim=-1) @ text.T
        like = F.binary_cross_entropy_with_logits(
            12 * (cosine - 0.5), share[rows, mine], pos_weight=torch.tensor(4.0))
        named = sum(F.cross_entropy(g[rows, cells], codes[rows, mine][:, i])
                    for i, g in enumerate(guesses.values()))
        return {"score": score.sum() / count,
                "box": box_loss(boxes[picture[there], best[there]], wanted[there]).mean(),
                "boxes": 0.3 * box_loss(boxes[rows, cells], wanted[rows, mine]).mean(),
                "like": 2 * like, "named": 0.3 * named,
                "object": 0.5 * F.binary_cross_entropy_with_logits(objects, truth)}

    run.train(loss_of)


if __name__ == "__main__":
    main()
