"""Trains nano's two text encoders and its U-Net together, from scratch, on cached latents.

    python train_unet.py --work WORK --out FOLDER (--minutes M | --until HH:MM)

Epsilon prediction, SDXL's noise schedule, 10 % empty captions, Muon, EMA, bf16 autocast. The
learning rate is constant and falls linearly over the last --decay minutes. Every --save minutes
WORK/state.pt (live weights, optimizer, EMA) and FOLDER (the whole diffusers folder, EMA, f16) are
replaced; a run that was stopped goes on from the state.
"""
import argparse
import calendar
import glob
import json
import os
import time

import torch
import torch.nn.functional as F

import model
from muon import Muon
from tokenizer import Tokenizer


def deadline(args):
    """Seconds since 1970 at which to stop: --until (UTC, today) or --minutes from now."""
    if not args.until:
        return time.time() + 60 * args.minutes
    hour, minute = map(int, args.until.split(":"))
    return calendar.timegm((*time.gmtime()[:3], hour, minute, 0))


class Latents:
    """The cached posterior moments of all pictures and their captions as token ids."""

    def __init__(self, work, tokenizer):
        files = sorted(glob.glob(work + "/moments/*.pt"))
        moments = torch.cat([torch.load(f) for f in files])
        captions = []
        for file in files:
            name = os.path.basename(file)[:-3]
            with open(f"{work}/pictures/{name}.txt", encoding="utf-8") as text:
                captions += text.read().splitlines()
        with open(work + "/base/vae/config.json", encoding="utf-8") as file:
            scale = json.load(file)["scaling_factor"]
        self.mean = moments[:, :4].float() * scale
        self.std = (moments[:, 4:].float().clamp(-30, 20) * 0.5).exp() * scale
        # Every caption occurs with and without a full stop.
        self.plain, self.stop = tokenizer(captions), tokenizer([c + "." for c in captions])
        self.empty = tokenizer([""])

    def batch(self, n):
        """`n` fresh posterior samples and their ids; 30 % with a full stop, 10 % empty."""
        rows = torch.randint(0, len(self.mean), (n,))
        latents = self.mean[rows] + self.std[rows] * torch.randn(n, *self.mean.shape[1:])
        stop, empty = torch.rand(n, 1) < 0.3, torch.rand(n, 1) < 0.1
        ids = [torch.where(empty, e, torch.where(stop, s[rows], p[rows]))
               for p, s, e in zip(self.plain, self.stop, self.empty)]
        return latents, ids


def timesteps(n):
    """Half uniform, half centred on 550, where class and place are decided."""
    u = torch.rand(n)
    centred = 0.2 + 0.35 * (u + torch.rand(n))
    return torch.where(torch.rand(n) < 0.5, u, centred).mul(1000).long().clamp(0, 999)


def loss_of(parts, latents, ids, schedule):
    """Mean squared error of the predicted noise."""
    t, noise = timesteps(len(latents)), torch.randn_like(latents)
    kept = schedule[t].view(-1, 1, 1, 1)
    noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
    with torch.autocast("cpu", torch.bfloat16):
        text, pooled = model.encode_text(parts["t1"], parts["t2"], *ids)
        added = dict(text_embeds=pooled, time_ids=model.TIME_IDS.expand(len(latents), -1))
        out = parts["unet"](noisy, t, text, added_cond_kwargs=added, return_dict=False)[0]
    return F.mse_loss(out.float(), noise)


class Run:
    """Weights, optimizer, EMA and counters: everything that a stopped run needs to go on."""

    def __init__(self, args, vocabulary):
        one, two = model.make_text_encoders(vocabulary)
        self.parts = torch.nn.ModuleDict({"unet": model.make_unet(), "t1": one, "t2": two})
        self.names, self.params = zip(*self.parts.named_parameters())
        embeddings = [p for n, p in zip(self.names, self.params) if "embedding" in n]
        self.opt = Muon(self.params, args.lr, wd=0.01, embed=embeddings)
        self.ema = [p.detach().clone() for p in self.params]
        self.step = self.seen = 0
        self.args, self.state = args, args.work + "/state.pt"
        if os.path.exists(self.state):
            saved = torch.load(self.state)
            self.parts.load_state_dict(saved["models"])
            self.opt.load_state_dict(saved["opt"])
            self.ema, self.step, self.seen = saved["ema"], saved["step"], saved["seen"]

    def train_step(self, loss, rate):
        """One optimizer step and one step of the moving average."""
        self.opt.set_lr(rate)
        self.opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in self.params if p.grad is not None], 1.0)
        self.opt.step()
        self.step += 1
        with torch.no_grad():
            keep = min(0.999, self.step / (self.step + 10.0))
            torch._foreach_lerp_(self.ema, list(self.params), 1 - keep)

    def save(self):
        """Replaces the state and the diffusers folder."""
        torch.save({"models": self.parts.state_dict(), "opt": self.opt.state_dict(),
                    "ema": self.ema, "step": self.step, "seen": self.seen}, self.state + ".tmp")
        os.replace(self.state + ".tmp", self.state)
        model.export(self.args.out, self.args.work + "/base", self.parts["unet"],
                     self.parts["t1"], self.parts["t2"], dict(zip(self.names, self.ema)))


def main():
    """Trains until the deadline."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--until", help="stop at this time of the day (UTC) instead")
    parser.add_argument("--decay", type=float, default=35)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=float, default=5)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(args.seed)
    tokenizer = Tokenizer(args.work + "/base/tokenizer")
    run, data = Run(args, len(tokenizer.ids)), Latents(args.work, tokenizer)
    torch.manual_seed(args.seed + run.step)  # a resumed run draws new batches
    print("parameters", sum(p.numel() for p in run.params), "from step", run.step, flush=True)
    schedule, start, end = model.alphas_cumprod(), time.time(), deadline(args)
    last, first, mean = start, run.seen, 0.0
    with open(args.work + "/unet.csv", "a", encoding="utf-8") as log:
        while (left := (end - time.time()) / 60) > 0:
            rate = args.lr * min(1, (run.step + 1) / 200) * min(1, 0.02 + 0.98 * left / args.decay)
            loss = loss_of(run.parts, *data.batch(args.batch), schedule)
            run.train_step(loss, rate)
            run.seen += args.batch
            mean += (float(loss.detach()) - mean) / min((run.seen - first) // args.batch, 100)
            if run.step % 50 == 0:
                speed = (run.seen - first) / (time.time() - start)
                print(f"{run.step} seen {run.seen} samples/s {speed:.1f} loss {mean:.4f}",
                      flush=True)
                print(run.step, run.seen, int(time.time()), round(mean, 5), sep=",", file=log,
                      flush=True)
            if time.time() - last > 60 * args.save:
                last = time.time()
                run.save()
    run.save()
    print("done", run.step, run.seen, flush=True)


if __name__ == "__main__":
    main()
