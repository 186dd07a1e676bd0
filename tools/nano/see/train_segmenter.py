"""Trains the segmenter: a SAM for boxes and points. See `loop.py` for the command line.

One mask (token 0) for a box, a box with points, or several points; three masks (tokens 1 to 3) for a
single point, of which the best one learns. The head for the quality learns the true IoU.
"""
import numpy as np
import torch
import torch.nn.functional as F

from eyes import normalized
from loop import Run, arguments
from pictures import Shards, augmented, flipped, to_float
from worlds import box_of

#: Kinds of prompts and how often they occur.
KINDS = {"box": 0.6, "both": 0.1, "points": 0.1, "point": 0.2}


def grown(box, rng):
    """A box as a detector gives it, grown by up to 7 % of the picture on every side."""
    x0, y0, x1, y1 = box
    width, height = x1 - x0, y1 - y0
    more = rng.choice([0.0, 6.4, rng.uniform(0, 9)])
    shift = rng.normal(0, 0.035, 4) * [width, height, width, height]
    out = np.array([x0 - more, y0 - more, x1 + more, y1 + more]) + shift
    return np.clip(out, 0, 128)


def points_in(mask, rng, inside, outside):
    """Random points on the mask and off it, (x, y) at the centres of pixels."""
    found = []
    for where, count in ((mask, inside), (~mask, outside)):
        rows, columns = np.nonzero(where)
        picked = rng.integers(0, max(len(rows), 1), count)
        found += [(columns[i] + 0.5, rows[i] + 0.5) for i in picked] if len(rows) else []
    return found


class Subjects:
    """Every subject of every scene with its mask."""

    def __init__(self, work):
        self.shards = Shards(work, "scenes")
        self.at = [(i, k) for i, s in enumerate(self.shards.specs) for k in range(len(s["subjects"]))]

    def batch(self, rng, n):
        """Augmented pictures, one mask of each [n, 128, 128], and a prompt of one kind."""
        chosen = [self.at[i] for i in rng.integers(0, len(self.at), n)]
        masks = np.stack([np.unpackbits(self.shards.arrays["masks"][i, k], axis=-1)
                          for i, k in chosen]).astype(bool)
        x = to_float(self.shards.take(np.array([i for i, _ in chosen]), rng))
        mirror = rng.random(n) < 0.5
        masks[mirror] = masks[mirror, :, ::-1]
        x = flipped(augmented(x), torch.from_numpy(mirror))
        kind = rng.choice(list(KINDS), p=list(KINDS.values()))
        prompt = {}
        if kind in ("box", "both"):
            boxes = np.stack([grown(box_of(m), rng) for m in masks])
            prompt["input_boxes"] = torch.tensor(boxes, dtype=torch.float32)[:, None]
        if kind != "box":
            inside = 1 if kind in ("both", "point") else int(rng.integers(2, 5))
            outside = int(rng.integers(0, 3)) if kind == "points" else 0
            points = np.array([points_in(m, rng, inside, outside) for m in masks])
            prompt["input_points"] = torch.tensor(points, dtype=torch.float32)[:, None]
            labels = torch.tensor([1] * inside + [0] * outside).expand(n, 1, -1)
            prompt["input_labels"] = labels.contiguous()
        return x, torch.from_numpy(masks), prompt, kind == "point"


def mask_losses(logits, truth):
    """Cross entropy and dice of each mask [n, m], and its IoU; truth [n, 1, h, w] of 0 to 1."""
    truth = truth.expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((2, 3))
    p = logits.sigmoid()
    both, sides = (p * truth).sum((2, 3)), p.sum((2, 3)) + truth.sum((2, 3))
    dice = 1 - (2 * both + 1) / (sides + 1)
    with torch.no_grad():
        hard, truth = (logits > 0).float(), (truth > 0.5).float()
        hit = (hard * truth).sum((2, 3))
        iou = hit / (hard.sum((2, 3)) + truth.sum((2, 3)) - hit + 1e-6)
    return 6 * entropy + dice, iou


def main():
    """Trains."""
    args = arguments(steps=1500, batch=32, lr=3e-3)
    run = Run("segmenter", args)
    data = Subjects(args.work)

    def loss_of():
        x, truth, prompt, several = data.batch(run.rng, args.batch)
        with torch.autocast("cpu", torch.bfloat16):
            out = run.model(pixel_values=normalized("segmenter", x), multimask_output=several,
                            **prompt)
        share = F.avg_pool2d(truth[:, None].float(), 2)  # of each cell of the mask
        loss, iou = mask_losses(out.pred_masks[:, 0].float(), share)
        best = loss.detach().argmin(1, keepdim=True)
        mask = loss.gather(1, best).mean() + (0.1 * loss.mean() if several else 0)
        return {"mask": mask, "quality": F.mse_loss(out.iou_scores[:, 0].float(), iou)}

    run.train(loss_of)


if __name__ == "__main__":
    main()
