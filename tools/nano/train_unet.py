"""Trains nano's two text encoders and its U-Net together, from scratch, on cached latents.

    python train_unet.py --work WORK --out FOLDER --steps N

Epsilon prediction, SDXL's noise schedule, 10 % empty captions, Muon, EMA, bf16 autocast. The
learning rate is constant and falls linearly over the last --decay steps. Every --save minutes
WORK/unet.pt (live weights, optimizer, EMA, state of the random generator) and FOLDER (the whole
diffusers folder, EMA, f16) are replaced; a run that was stopped goes on from there with the batches
that it would have drawn. --steps may be changed between two parts of a run.
"""
import argparse
import glob
import json
import os
import time

import torch
import torch.nn.functional as F

import model
from fused import speed_up
from muon import Muon
from tokenizer import Tokenizer


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

    def batch(self, n, generator):
        """`n` fresh posterior samples and their ids; 30 % with a full stop, 10 % empty."""
        rows = torch.randint(0, len(self.mean), (n,), generator=generator)
        noise = torch.randn(n, *self.mean.shape[1:], generator=generator)
        latents = self.mean[rows] + self.std[rows] * noise
        stop, empty = (torch.rand(n, 1, generator=generator) < part for part in (0.3, 0.1))
        ids = [torch.where(empty, e, torch.where(stop, s[rows], p[rows]))
               for p, s, e in zip(self.plain, self.stop, self.empty)]
        return latents, ids


def timesteps(n, generator):
    """Half uniform, half centred on 475, where class, place and pattern are decided."""
    u, v, w = torch.rand(3, n, generator=generator)
    centred = 0.15 + 0.325 * (u + v)
    return torch.where(w < 0.5, u, centred).mul(1000).long().clamp(0, 999)


def loss_of(parts, latents, ids, schedule, generator):
    """Mean squared error of the predicted noise."""
    t = timesteps(len(latents), generator)
    noise = torch.randn(latents.shape, generator=generator)
    kept = schedule[t].view(-1, 1, 1, 1)
    noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
    noisy = noisy.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        text, pooled = model.encode_text(parts["t1"], parts["t2"], *ids)
        added = dict(text_embeds=pooled, time_ids=model.TIME_IDS.expand(len(latents), -1))
        out = parts["unet"](noisy, t, text, added_cond_kwargs=added, return_dict=False)[0]
    return F.mse_loss(out.float(), noise)


class Run:
    """Weights, optimizer, EMA, generator and step: everything that a stopped run needs to go on."""

    def __init__(self, args, vocabulary):
        one, two = model.make_text_encoders(vocabulary)
        unet = speed_up(model.make_unet())
        self.parts = torch.nn.ModuleDict({"unet": unet, "t1": one, "t2": two})
        self.names, self.params = zip(*self.parts.named_parameters())
        embeddings = [p for n, p in zip(self.names, self.params) if "embedding" in n]
        self.opt = Muon(self.params, args.lr, wd=0.01, embed=embeddings)
        self.ema = [p.detach().clone() for p in self.params]
        self.generator = torch.Generator().manual_seed(args.seed)
        self.step = 0
        self.args, self.state = args, args.work + "/unet.pt"
        if os.path.exists(self.state):
            saved = torch.load(self.state)
            self.parts.load_state_dict(saved["models"])
            self.opt.load_state_dict(saved["opt"])
            self.ema, self.step = saved["ema"], saved["step"]
            self.generator.set_state(saved["generator"])

    def train_step(self, data, schedule):
        """One optimizer step and one step of the moving average."""
        args, draws = self.args, self.generator
        left = (args.steps - self.step) / args.decay
        self.opt.set_lr(args.lr * min(1, (self.step + 1) / 200) * min(1, 0.02 + 0.98 * left))
        loss = loss_of(self.parts, *data.batch(args.batch, draws), schedule, draws)
        self.opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in self.params if p.grad is not None], 1.0)
        self.opt.step()
        self.step += 1
        with torch.no_grad():
            keep = min(0.999, self.step / (self.step + 10.0))
            torch._foreach_lerp_(self.ema, list(self.params), 1 - keep)
        return float(loss.detach())

    def save(self):
        """Replaces the state and the diffusers folder."""
        torch.save({"models": self.parts.state_dict(), "opt": self.opt.state_dict(),
                    "ema": self.ema, "step": self.step,
                    "generator": self.generator.get_state()}, self.state + ".tmp")
        os.replace(self.state + ".tmp", self.state)
        model.export(self.args.out, self.args.work + "/base", self.parts["unet"],
                     self.parts["t1"], self.parts["t2"], dict(zip(self.names, self.ema)))


def main():
    """Trains up to --steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--decay", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=float, default=8)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(args.seed)
    tokenizer = Tokenizer(args.work + "/base/tokenizer")
    run, data = Run(args, len(tokenizer.ids)), Latents(args.work, tokenizer)
    print("parameters", sum(p.numel() for p in run.params), "pictures", len(data.mean),
          "from step", run.step, flush=True)
    schedule, mean, first = model.alphas_cumprod(), 0.0, run.step
    wall, cpu = time.time(), time.process_time()
    saved = wall
    with open(args.work + "/unet.csv", "a", encoding="utf-8") as log:
        if not log.tell():
            print("step,samples,loss", file=log, flush=True)
        while run.step < args.steps:
            mean += (run.train_step(data, schedule) - mean) / min(run.step - first, 100)
            seen, done = run.step * args.batch, (run.step - first) * args.batch
            if run.step % 50 == 0:
                print(f"{run.step} samples {seen} loss {mean:.4f} samples/s "
                      f"{done / (time.time() - wall):.1f}, of CPU time "
                      f"{done / (time.process_time() - cpu):.1f}", flush=True)
                print(run.step, seen, round(mean, 5), sep=",", file=log, flush=True)
            if time.time() - saved > 60 * args.save or run.step == args.steps:
                run.save()
                saved = time.time()


if __name__ == "__main__":
    main()
