"""Trains nano's autoencoder on rendered pictures, and reports PSNR on 128 unseen scenes.

    python train_vae.py --work WORK --minutes 60             # encoder and decoder, from scratch
    python train_vae.py --work WORK --minutes 25 --decoder   # the decoder only: latents stay valid

Loss: saturation-weighted L1 + L2, opponent colours at 1/4 size, edges at three sizes, a tiny KL.
Most steps see 64 x 64 cuts (many cheap steps), the last quarter whole pictures. Cosine learning
rate over the time given; EMA. WORK/base/vae (f16) is replaced whenever the EMA weights are better.
"""
import argparse
import glob
import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

import model
import toyworld
from encode import to_input
from muon import Muon
from render import render


def edge_loss(y, x):
    """L1 of the differences between neighbours at full, half and quarter size."""
    loss = 0.0
    for size in (1, 2, 4):
        if size > 1:
            y, x = F.avg_pool2d(y, 2), F.avg_pool2d(x, 2)
        for dim in (-1, -2):
            loss = loss + (y.diff(dim=dim) - x.diff(dim=dim)).abs().mean()
    return loss


def colour_loss(y, x):
    """Keeps colours: plain L1 learns grey first, so saturated pixels count up to 4 times."""
    weight = 1 + 1.5 * (x.amax(1, keepdim=True) - x.amin(1, keepdim=True))
    d = y - x
    opponent = torch.stack([d[:, 0] - d[:, 1], d[:, 2] - (d[:, 0] + d[:, 1]) / 2], 1)
    opponent = F.avg_pool2d(opponent, 4)
    return ((weight * (d.abs() + d * d)).mean() + 3 * opponent.pow(2).mean()
            + 0.5 * opponent.abs().mean())


def unseen_pictures(n=128, seed=999983):
    """Scenes that no shard holds."""
    specs = (toyworld.random_spec(np.random.default_rng((seed, i))) for i in range(n))
    return to_input(np.stack([render(spec)[0] for spec in specs]))


@torch.no_grad()
def psnr(vae, pictures):
    """Mean of the pictures' PSNR, and PSNR of the mean squared error, in dB (f32)."""
    errors = []
    for x in pictures.split(16):
        y = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        errors.append(((y - x) / 2).pow(2).mean((1, 2, 3)))
    error = torch.cat(errors)
    return float((-10 * error.log10()).mean()), float(-10 * error.mean().log10())


class Pictures:
    """Random batches of the rendered shards, with cached moments where the encoder is frozen."""

    def __init__(self, work, moments):
        files = sorted(glob.glob(work + "/pictures/*.npy"))
        self.shards = [np.load(f, mmap_mode="r") for f in files]
        names = [os.path.basename(f)[:-4] for f in files] if moments else []
        self.moments = [torch.load(f"{work}/moments/{name}.pt") for name in names]

    def batch(self, rng, n, whole):
        """Pictures [n, 3, s, s] and their moments [n, 8, s/8, s/8] or None; s is 128 or 64."""
        where = [(rng.integers(len(self.shards)), rng.integers(toyworld.SHARD)) for _ in range(n)]
        x = to_input(np.stack([self.shards[a][b] for a, b in where]))
        m = torch.stack([self.moments[a][b] for a, b in where]).float() if self.moments else None
        if not whole:
            i, j = rng.integers(0, 9, 2)
            x = x[:, :, 8 * i:8 * i + 64, 8 * j:8 * j + 64].contiguous()
            m = m if m is None else m[:, :, i:i + 8, j:j + 8].contiguous()
        return x, m


def loss_of(vae, x, moments):
    """Reconstruction loss from a posterior sample, plus KL where the encoder trains."""
    with torch.autocast("cpu", torch.bfloat16):
        if moments is None:
            moments = vae.encode(x).latent_dist.parameters
        mean, logvar = moments.float().chunk(2, 1)
        logvar = logvar.clamp(-30, 20)
        y = vae.decode(mean + (0.5 * logvar).exp() * torch.randn_like(mean)).sample.float()
    kl = 0.5 * (mean * mean + logvar.exp() - 1 - logvar).sum((1, 2, 3)).mean()
    return colour_loss(y, x) + 0.25 * edge_loss(y, x) + 1e-6 * kl


class Average:
    """The moving average of the trained weights; `swap` exchanges it with the live ones."""

    def __init__(self, params):
        self.params, self.values = params, [p.detach().clone() for p in params]

    @torch.no_grad()
    def update(self, step):
        """One step of the average, with a warm-up."""
        torch._foreach_lerp_(self.values, self.params, 1 - min(0.998, step / (step + 10.0)))

    @torch.no_grad()
    def swap(self):
        """Live weights <-> average."""
        for p, value in zip(self.params, self.values):
            live = p.clone()
            p.copy_(value)
            value.copy_(live)


def check(vae, average, test, state, log):
    """Measures the average and keeps it if it is the best so far."""
    average.swap()
    score = psnr(vae, test)
    print("step", state["step"], "PSNR mean of dB, dB of mean", score, flush=True)
    print(state["step"], int(time.time()), *score, sep=",", file=log, flush=True)
    if score[0] > state["best"]:
        state["best"] = score[0]
        vae.save_config(state["out"])
        model.write_half(state["out"] + "/diffusion_pytorch_model.safetensors", vae.state_dict())
    average.swap()


def main():
    """Trains for --minutes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--decoder", action="store_true")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    rng, out = np.random.default_rng(args.seed), args.work + "/base/vae"
    there = os.path.exists(out + "/config.json")
    vae = (AutoencoderKL.from_pretrained(out, torch_dtype=torch.float32) if there
           else model.make_vae())
    if args.decoder:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    peak = args.lr or (1e-3 if there else 2e-3)
    params = [p for p in vae.parameters() if p.requires_grad]
    opt, average = Muon(params, peak, wd=1e-3), Average(params)
    data, test = Pictures(args.work, args.decoder), unseen_pictures()
    state = {"step": 0, "best": psnr(vae, test)[0] if there else 0.0, "out": out}
    print("parameters", sum(p.numel() for p in params), "PSNR", state["best"], flush=True)
    start = last = time.time()
    with open(args.work + "/vae.csv", "a", encoding="utf-8") as log:
        while (part := (time.time() - start) / 60 / args.minutes) < 1:
            warm = min(1, (state["step"] + 1) / 50)
            opt.set_lr(peak * warm * (0.02 + 0.49 * (1 + math.cos(math.pi * part))))
            loss = loss_of(vae, *data.batch(rng, args.batch, part > 0.75))
            for p in params:
                p.grad = None
            loss.backward()
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            opt.step()
            state["step"] += 1
            average.update(state["step"])
            if time.time() - last > 240:
                last = time.time()
                check(vae, average, test, state, log)
        check(vae, average, test, state, log)


if __name__ == "__main__":
    main()
