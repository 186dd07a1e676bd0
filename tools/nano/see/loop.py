"""What the four trainings share: optimizer, moving average, curve, checkpoint, export.

    python train_NAME.py WORK OUT [--steps N] [--batch N] [--lr R] [--seed S]

The learning rate warms up and falls with a cosine over the steps. WORK/NAME.pt is replaced now and then;
a stopped run goes on from it. At the end OUT/NAME holds the averaged weights in f16.
"""
import argparse
import math
import os
import time

import numpy as np
import torch

import worlds  # noqa: F401  makes the folder above known
from eyes import export, make
from muon import Muon


def arguments(steps, batch, lr, **more):
    """The command line with these defaults, and `more` flags with their options."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work")
    parser.add_argument("out")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--seed", type=int, default=0)
    for flag, options in more.items():
        parser.add_argument(flag, **options)
    return parser.parse_args()


def exported(kind, folder):
    """What loads the weights of an exported folder into a fresh model of this class; nothing for no folder."""
    return folder and (lambda model: model.load_state_dict(
        kind.from_pretrained(folder, dtype=torch.float32).state_dict()))


class Run:
    """A model with heads that only training has, and everything that a stopped run needs."""

    def __init__(self, name, args, heads=None, prepare=None, stage=""):
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        torch.manual_seed(args.seed)
        self.name, self.args = name, args
        self.file = f"{args.work}/{name}{stage}.pt"
        model = make(name)
        model.set_attn_implementation("eager")  # faster than the fused one at this size
        if prepare:
            prepare(model)
        self.parts = torch.nn.ModuleDict({"model": model, "heads": torch.nn.ModuleDict(heads or {})})
        self.params = [p for p in self.parts.parameters() if p.requires_grad]
        tables = [p for n, p in self.parts.named_parameters()
                  if "embedding.weight" in n or "position" in n or "rel_pos" in n or "token" in n]
        self.opt = Muon(self.params, args.lr, wd=0.01, embed=tables)
        self.average = [p.detach().clone() for p in self.params]
        self.step = 0
        if os.path.exists(self.file):
            saved = torch.load(self.file)
            self.parts.load_state_dict(saved["parts"])
            self.opt.load_state_dict(saved["opt"])
            self.average, self.step = saved["average"], saved["step"]
        torch.manual_seed(args.seed + self.step)
        self.rng = np.random.default_rng((args.seed, self.step))
        self.model, self.heads = self.parts["model"], self.parts["heads"]

    def rate(self):
        """Warm-up of 100 steps, then half a cosine down to a fiftieth."""
        part = self.step / self.args.steps
        return self.args.lr * min(1, (self.step + 1) / 100) * (0.51 + 0.49 * math.cos(math.pi * part))

    def save(self):
        """Replaces the checkpoint."""
        torch.save({"parts": self.parts.state_dict(), "opt": self.opt.state_dict(),
                    "average": self.average, "step": self.step}, self.file + ".tmp")
        os.replace(self.file + ".tmp", self.file)

    def export(self):
        """Writes the averaged weights as a published folder."""
        live = [p.detach().clone() for p in self.params]
        self.put(self.average)
        export(self.name, self.model, f"{self.args.out}/{self.name}")
        self.put(live)

    @torch.no_grad()
    def put(self, values):
        """Sets the parameters."""
        for p, value in zip(self.params, values):
            p.copy_(value)

    def train(self, loss_of, every=25, save=50):
        """Steps until the budget is used; `loss_of()` gives a dictionary whose values are added up."""
        start, first, mean = time.time(), self.step, {}
        self.parts.train()
        with open(self.file.replace(".pt", ".csv"), "a", encoding="utf-8") as log:
            while self.step < self.args.steps:
                self.opt.set_lr(self.rate())
                losses = loss_of()
                self.opt.zero_grad()
                sum(losses.values()).backward()
                torch.nn.utils.clip_grad_norm_([p for p in self.params if p.grad is not None], 1.0)
                self.opt.step()
                self.step += 1
                keep = min(0.99, self.step / (self.step + 10.0))
                with torch.no_grad():
                    torch._foreach_lerp_(self.average, self.params, 1 - keep)
                for k, v in losses.items():
                    mean[k] = mean.get(k, float(v.detach())) * 0.98 + 0.02 * float(v.detach())
                if self.step % every == 0:
                    speed = (self.step - first) * self.args.batch / (time.time() - start)
                    shown = " ".join(f"{k} {v:.4f}" for k, v in mean.items())
                    print(f"{self.step} samples/s {speed:.0f} {shown}", flush=True)
                    print(self.step * self.args.batch, round(sum(mean.values()), 5),
                          *(round(v, 5) for v in mean.values()), sep=",", file=log, flush=True)
                if self.step % save == 0:
                    self.save()
        self.save()
        self.export()
