"""Trains nano's autoencoder on rendered pictures, and reports PSNR on 128 unseen scenes.

    python train_vae.py --work WORK --steps 10000

Loss: L2, saturation-weighted L1 + L2, opponent colours at 1/4 size, edges at three sizes, tiny KL.
The first steps see 64 x 64 cuts (8 of them), the last 20 % whole pictures (4 of them: the norms'
statistics are those of whole pictures only there). Cosine learning rate over the steps; EMA. Every
--measure steps and every --save minutes WORK/vae.pt (live weights, optimizer, EMA, state of the
random generator) and WORK/base/vae (EMA, f16) are replaced; a run that was stopped goes on there.
"""
import argparse
import glob
import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F

import model
import toyworld
from encode import to_input
from fused import speed_up
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
    """Random batches of the first shards; every draw comes from `generator`."""

    def __init__(self, work, shards, generator):
        files = sorted(glob.glob(work + "/pictures/*.npy"))[:shards]
        if len(files) < shards:
            raise FileNotFoundError(f"{work}/pictures has {len(files)} of {shards} shards")
        self.shards = [np.load(f, mmap_mode="r") for f in files]
        self.generator = generator

    def draw(self, n, high):
        """`n` whole numbers below `high`."""
        return torch.randint(high, (n,), generator=self.generator).tolist()

    def batch(self, n, size):
        """Pictures [n, 3, size, size], cut out at multiples of 8."""
        where = zip(self.draw(n, len(self.shards)), self.draw(n, toyworld.SHARD))
        x = np.stack([self.shards[a][b] for a, b in where])
        i, j = (8 * v for v in self.draw(2, (toyworld.SIZE - size) // 8 + 1))
        return to_input(x[:, i:i + size, j:j + size])


def loss_of(vae, x, generator):
    """Reconstruction loss from a posterior sample, plus KL."""
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        mean, logvar = vae.encode(x).latent_dist.parameters.float().chunk(2, 1)
        logvar = logvar.clamp(-30, 20)
        noise = torch.randn(mean.shape, generator=generator)
        y = vae.decode(mean + (0.5 * logvar).exp() * noise).sample.float()
    kl = 0.5 * (mean * mean + logvar.exp() - 1 - logvar).sum((1, 2, 3)).mean()
    return colour_loss(y, x) + 0.25 * edge_loss(y, x) + 8 * F.mse_loss(y, x) + 1e-6 * kl


class Run:
    """Weights, optimizer, EMA, generator and step: everything that a stopped run needs to go on."""

    def __init__(self, args):
        self.args, self.path = args, args.work + "/vae.pt"
        self.generator = torch.Generator().manual_seed(args.seed)
        self.vae = speed_up(model.make_vae())
        self.params = list(self.vae.parameters())
        self.opt = Muon(self.params, args.lr, wd=1e-3)
        self.average = [p.detach().clone() for p in self.params]
        self.step = 0
        if os.path.exists(self.path):
            saved = torch.load(self.path)
            self.vae.load_state_dict(saved["vae"])
            self.opt.load_state_dict(saved["opt"])
            self.average, self.step = saved["average"], saved["step"]
            self.generator.set_state(saved["generator"])

    def rate(self):
        """Warm-up, then half a cosine over all steps."""
        part = self.step / self.args.steps
        warm = min(1, (self.step + 1) / 50)
        return self.args.lr * warm * (0.02 + 0.49 * (1 + math.cos(math.pi * part)))

    def train_step(self, data):
        """One optimizer step and one step of the moving average."""
        whole = self.step >= 0.8 * self.args.steps
        loss = loss_of(self.vae, data.batch(*((4, 128) if whole else (8, 64))), self.generator)
        self.opt.set_lr(self.rate())
        self.opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        self.opt.step()
        self.step += 1
        with torch.no_grad():
            keep = min(0.998, self.step / (self.step + 10.0))
            torch._foreach_lerp_(self.average, self.params, 1 - keep)
        return float(loss.detach())

    def save(self):
        """Replaces the state and the exported autoencoder, and returns the latter (f16 as f32)."""
        torch.save({"vae": self.vae.state_dict(), "opt": self.opt.state_dict(), "step": self.step,
                    "average": self.average, "generator": self.generator.get_state()},
                   self.path + ".tmp")
        os.replace(self.path + ".tmp", self.path)
        plain, out = model.make_vae(), self.args.work + "/base/vae"
        with torch.no_grad():
            for p, value in zip(plain.parameters(), self.average):
                p.copy_(value)
        plain.save_config(out)
        model.write_half(out + "/diffusion_pytorch_model.safetensors", plain.state_dict())
        return plain.half().float()


def main():
    """Trains up to --steps, or to --stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", required=True)
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--stop", type=int, help="end here, with the rate of a run of --steps")
    parser.add_argument("--shards", type=int, default=12)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", type=int, default=1000)
    parser.add_argument("--save", type=float, default=8)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    run, test = Run(args), unseen_pictures()
    data = Pictures(args.work, args.shards, run.generator)
    print("parameters", sum(p.numel() for p in run.params), "from step", run.step, flush=True)
    mean, start, first = 0.0, time.process_time(), run.step
    end, saved = args.stop or args.steps, time.time()
    with open(args.work + "/vae.csv", "a", encoding="utf-8") as log:
        if not log.tell():
            print("step,loss,psnr_mean_of_db,psnr_of_mean", file=log, flush=True)
        while run.step < end:
            mean += (run.train_step(data) - mean) / min(run.step - first, 200)
            if time.time() - saved > 60 * args.save:
                run.save()
                saved = time.time()
            if run.step % args.measure == 0 or run.step == end:
                speed = (time.process_time() - start) / (run.step - first)
                score = psnr(run.save(), test)
                print(f"{run.step} loss {mean:.4f} CPU s/step {speed:.3f} PSNR mean of dB, "
                      f"dB of mean {score[0]:.3f} {score[1]:.3f}", flush=True)
                print(run.step, round(mean, 5), *(round(v, 3) for v in score), sep=",", file=log,
                      flush=True)


if __name__ == "__main__":
    main()
