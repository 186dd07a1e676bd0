"""The rendered shards in memory, and what happens to a picture before a model sees it."""
import glob
import json
import os

import numpy as np
import torch
import torch.nn.functional as F


class Shards:
    """All shards of one kind: pictures, the rest by name, and the softened pictures by row."""

    def __init__(self, work, kind):
        files = sorted(glob.glob(f"{work}/{kind}/*.npz"))
        parts = [dict(np.load(f)) for f in files]
        self.arrays = {k: np.concatenate([p[k] for p in parts]) for k in parts[0] if k != "specs"}
        self.specs = [json.loads(s) for p in parts for s in p["specs"]]
        self.pictures = self.arrays["pictures"].reshape(-1, 128, 128, 3)
        self.soft = np.full(len(self.pictures), -1)
        soft, start = [], 0
        for file, part in zip(files, parts):
            path = file.replace(f"/{kind}/", f"/soft_{kind}/")
            if os.path.exists(path):
                extra = np.load(path)
                self.soft[start + extra["rows"]] = sum(map(len, soft)) + np.arange(len(extra["rows"]))
                soft.append(extra["pictures"])
            start += len(part["pictures"].reshape(-1, 128, 128, 3))
        self.softened = np.concatenate(soft) if soft else None

    def __len__(self):
        return len(self.specs)

    def take(self, rows, rng):
        """u8 pictures of these rows; of those that have a softened copy, that one mostly."""
        out = self.pictures[rows]
        for i, row in enumerate(rows):
            if self.soft[row] >= 0 and rng.random() < 0.6:
                out[i] = self.softened[self.soft[row]]
        return out


def to_float(pictures):
    """u8 [n, h, w, 3] -> f32 [n, 3, h, w] of 0 to 1."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255


def blurred(x):
    """Weights 1, 2, 1 both ways."""
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    x = x[..., :-2] + x[..., 2:] + 2 * x[..., 1:-1]
    return (x[..., :-2, :] + x[..., 2:, :] + 2 * x[..., 1:-1, :]) / 16


NOISE = torch.randn(8, 3, 160, 160, generator=torch.Generator().manual_seed(0))


def augmented(x):
    """Slightly other light and colours, blur, smear and noise, each picture its own amount."""
    n = len(x)

    def each(low, high, channels=1):
        return torch.empty(n, channels, 1, 1).uniform_(low, high)

    x = x * (each(0.88, 1.12) * each(0.95, 1.05, 3)) + each(-0.07, 0.07)
    for i, u in enumerate(torch.rand(n).tolist()):
        if u < 0.25:
            part = torch.rand(()).item()
            x[i] += part * (blurred(x[i:i + 1])[0] - x[i])
        elif u < 0.35:
            x[i] = blurred(blurred(x[i:i + 1]))[0]
        elif u < 0.45:
            x[i] = F.interpolate(F.interpolate(x[i:i + 1], scale_factor=0.5, mode="area"),
                                 scale_factor=2, mode="bilinear")[0]
        if torch.rand(()) < 0.4:
            a, j, k = (int(torch.randint(m, ())) for m in (len(NOISE), 32, 32))
            h, w = x.shape[-2:]
            x[i] += torch.rand(()).item() * 0.035 * NOISE[a, :, j:j + h, k:k + w]
    return x.clamp(0, 1)


def flipped(x, mirror):
    """Mirrors the pictures (last axis) where `mirror`."""
    return torch.where(mirror.view(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)
