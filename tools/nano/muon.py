"""Muon: momentum made orthogonal by Newton-Schulz steps, for matrices and convolution kernels.

Biases, norms and embeddings go to AdamW. Steps are scaled so that one learning rate fits both.
"""
import torch


class Muon:
    """An optimizer over `params`; those in `embed` always go to AdamW."""

    def __init__(self, params, lr, wd=0.01, momentum=0.95, betas=(0.9, 0.99), embed=()):
        skip = {id(p) for p in embed}
        params = [p for p in params if p.requires_grad]
        self.matrices = [p for p in params if p.ndim >= 2 and id(p) not in skip
                         and min(p.shape[0], p[0].numel()) > 4]
        taken = {id(p) for p in self.matrices}
        self.momenta = [torch.zeros_like(p) for p in self.matrices]
        self.adam = torch.optim.AdamW([p for p in params if id(p) not in taken], lr=lr,
                                      betas=betas, weight_decay=wd)
        self.lr, self.wd, self.momentum = lr, wd, momentum

    def set_lr(self, lr):
        """Sets the learning rate of both halves."""
        self.lr = lr
        for group in self.adam.param_groups:
            group["lr"] = lr

    def zero_grad(self):
        """Forgets all gradients."""
        self.adam.zero_grad()
        for p in self.matrices:
            p.grad = None

    @torch.no_grad()
    def step(self):
        """One step; matrices of one shape are made orthogonal together."""
        self.adam.step()
        groups = {}
        for p, buffer in zip(self.matrices, self.momenta):
            if p.grad is None:
                continue
            buffer.mul_(self.momentum).add_(p.grad, alpha=1 - self.momentum)
            g = p.grad.lerp(buffer, self.momentum).flatten(1)
            tall = g.shape[0] > g.shape[1]
            groups.setdefault(tuple(g.shape), []).append((p, g.T if tall else g, tall))
        for shape, items in groups.items():
            for (p, _, tall), x in zip(items, orthogonal(torch.stack([g for _, g, _ in items]))):
                x = (x.T if tall else x).float().reshape(p.shape)
                p.mul_(1 - self.lr * self.wd).add_(x, alpha=-self.lr * 0.2 * max(shape) ** 0.5)

    def state_dict(self):
        """What a stopped run needs to go on."""
        return {"adam": self.adam.state_dict(), "buf": self.momenta}

    def load_state_dict(self, state):
        """Takes back what `state_dict` gave."""
        self.adam.load_state_dict(state["adam"])
        for mine, saved in zip(self.momenta, state["buf"]):
            mine.copy_(saved)


def orthogonal(x):
    """Five quintic Newton-Schulz steps [n, rows, columns] in bf16: singular values go to 1."""
    x = x.bfloat16()
    x = x / (x.float().norm(dim=(1, 2), keepdim=True).bfloat16() + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return x
