"""The cases of ops.rs in torch: python benches/ops.py [threads [part of a name]]."""

import sys
import time

import torch
import torch.nn.functional as F

THREADS = int(sys.argv[1]) if len(sys.argv) > 1 else 2
torch.set_num_threads(THREADS)
# one thread: time on the core, so that other jobs do not count
clock = time.process_time if THREADS == 1 else time.perf_counter


def best(f):
    """Best time of at least 5 calls and 0.3 s, in ms."""
    f()
    begin, times = time.perf_counter(), []
    while len(times) < 5 or time.perf_counter() - begin < 0.3:
        t = clock()
        f()
        times.append(clock() - t)
    return min(times) * 1e3


def report(name, flop, forward, inputs, dy, sets):
    """Forward under no_grad, then torch.autograd.grad of each set of inputs."""
    if len(sys.argv) > 2 and sys.argv[2] not in name:
        return
    with torch.no_grad():
        ms = best(forward)
    line = f"{name:34} forward {ms:8.3f} ms {flop / ms / 1e6:6.1f} GFLOP/s"
    for what, wanted in sets:
        for i in inputs:
            i.requires_grad_(any(i is w for w in wanted))
        y = forward()
        ms = best(lambda: torch.autograd.grad(y, wanted, dy, retain_graph=True))
        line += f" | {what} {ms:8.3f} ms {flop / ms / 1e6:6.1f}"
        for i in inputs:
            i.requires_grad_(False)
    print(line, flush=True)


def conv(n, h, w, c, o, k, s):
    """Weights and images in torch's default layout, as the models have them."""
    x, weight = torch.randn(n, c, h, w), torch.randn(o, c, k, k)
    y = F.conv2d(x, weight, stride=s, padding=k // 2)
    flop = 2.0 * y.numel() * k * k * c
    run = lambda: F.conv2d(x, weight, stride=s, padding=k // 2)
    sets = [("dx", [x]), ("dw", [weight])]
    report(f"conv {k}x{k}/{s} {n}x{h}x{w}x{c} {o}", flop, run, [x, weight], torch.randn_like(y), sets)


def linear(rows, k, n):
    x, w = torch.randn(rows, k), torch.randn(n, k)
    sets = [("dx", [x]), ("dw", [w])]
    report(f"linear {rows} {k} {n}", 2.0 * rows * k * n, lambda: F.linear(x, w), [x, w], torch.randn(rows, n), sets)


def lora(rows, k, n, r):
    x, w, a, up = torch.randn(rows, k), torch.randn(n, k), torch.randn(r, k), torch.randn(n, r)
    run = lambda: F.linear(x, w) + 0.5 * F.linear(F.linear(x, a), up)
    sets = [("dx da dup", [x, a, up])]
    flop = 2.0 * rows * (k * n + r * (k + n))
    report(f"lora {rows} {k} {n} rank {r}", flop, run, [x, w, a, up], torch.randn(rows, n), sets)


def attention(n, lq, lk, h, d):
    """Heads before positions in memory, as scaled_dot_product_attention is called in the models."""
    q, k, v = (torch.randn(n, l, h, d).transpose(1, 2) for l in (lq, lk, lk))
    run = lambda: F.scaled_dot_product_attention(q, k, v)
    flop = 4.0 * n * h * lq * lk * d
    dy = torch.randn(n, lq, h, d).transpose(1, 2)
    report(f"attention {n} {lq} {lk} {h} {d}", flop, run, [q, k, v], dy, [("all", [q, k, v])])


def group_norm(silu, size, c):
    """torch's default layout."""
    x, g, b = torch.randn(1, c, size, size), torch.randn(c), torch.randn(c)
    norm = lambda: F.group_norm(x, 32, g, b, 1e-5)
    run = (lambda: F.silu(norm())) if silu else norm
    name = "group_norm silu" if silu else "group_norm"
    sets = [("all", [x, g, b])]
    flop = (20.0 if silu else 7.0) * x.numel()
    report(f"{name} {size} {size} {c}", flop, run, [x, g, b], torch.randn_like(x), sets)


def layer_norm(rows, c):
    x, g, b = torch.randn(1, rows, c), torch.randn(c), torch.randn(c)
    run = lambda: F.layer_norm(x, (c,), g, b, 1e-5)
    sets = [("all", [x, g, b])]
    report(f"layer_norm {rows} {c}", 8.0 * x.numel(), run, [x, g, b], torch.randn_like(x), sets)


for case in [
    (1, 64, 64, 4, 160, 3, 1),
    (1, 64, 64, 160, 160, 3, 1),
    (1, 64, 64, 320, 160, 3, 1),
    (1, 64, 64, 160, 160, 3, 2),
    (1, 32, 32, 320, 320, 3, 1),
    (1, 32, 32, 640, 320, 3, 1),
    (1, 32, 32, 640, 320, 1, 1),
    (1, 16, 16, 640, 640, 3, 1),
    (1, 16, 16, 1280, 640, 3, 1),
    (8, 16, 16, 64, 64, 3, 1),
    (8, 8, 8, 128, 128, 3, 1),
    (1, 256, 256, 128, 128, 3, 1),
    (1, 256, 256, 128, 3, 3, 1),
]:
    conv(*case)
for case in [
    (1, 640, 1280),
    (64, 64, 64),
    (77, 2048, 640),
    (256, 640, 640),
    (256, 640, 5120),
    (1024, 320, 320),
    (1024, 320, 2560),
    (4096, 1280, 320),
]:
    linear(*case)
for case in [(256, 640, 640, 8), (1024, 320, 320, 8), (1024, 320, 320, 32), (77, 2048, 640, 8)]:
    lora(*case)
for case in [
    (1, 4096, 4096, 5, 64),
    (1, 1024, 1024, 10, 64),
    (1, 1024, 77, 10, 64),
    (16, 256, 256, 2, 32),
    (16, 16, 16, 4, 32),
]:
    attention(*case)
for case in [(False, 64, 320), (False, 32, 1280), (True, 64, 320), (True, 32, 1280)]:
    group_norm(*case)
for case in [(1024, 640), (4096, 320)]:
    layer_norm(*case)
