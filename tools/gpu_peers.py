"""What torch needs for the work of `selvedge kernels bench` and `selvedge bench step`, on the same machine in the same run.

    python3 tools/gpu_peers.py --out peers.jsonl [--wheels DIR] [--seconds N] [--dry]

One JSON object a line: {"op", "pass", "dims", "dtype", "ms", "backend"} for single operations (dims in selvedge's
layouts, so that tools/gpu_report.py can put both beside each other) and {"model", "what", "batch", "mode", "ms", "peak_bytes"}
for SDXL. Attention takes the fastest of torch's backends; convolutions are channels-last with cuDNN's search on. Medians of
CUDA events over rotated buffers of random data. diffusers and peft are looked for in DIR when the machine lacks them; without
them the SDXL lines are left out and a line says so. --dry: tiny shapes on the CPU, to try the script itself.
"""

import argparse
import contextlib
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F

# SDXL at 1024 x 1024: (batch, queries, keys, heads, width of a head)
ATTENTION = [(b, n, k, h, 64) for b in (1, 2, 4) for n, h in ((4096, 10), (1024, 20)) for k in (n, 77)]
ATTENTION += [(1, 4096, 4096, 8, 40), (1, 1024, 1024, 8, 80), (1, 256, 256, 8, 160)]  # SD 1.5 at 512 x 512
# (rows, inputs, outputs)
LINEAR = [(m * b, k, n) for b in (1, 2, 4) for m, c in ((4096, 640), (1024, 1280)) for k, n in ((c, c), (c, 8 * c), (4 * c, c))]
LINEAR += [(77, 2048, c) for c in (640, 1280)]
LORA = [(m, c, c, r) for m, c in ((4096, 640), (1024, 1280), (16384, 640), (4096, 1280)) for r in (4, 16, 32, 128)]
# (batch, side, inputs, outputs, kernel, stride)
CONV = [(b, *s) for b in (1, 2) for s in (
    (128, 4, 320, 3, 1), (128, 320, 320, 3, 1), (128, 320, 320, 3, 2), (64, 320, 640, 3, 1), (64, 640, 640, 3, 1), (64, 640, 640, 3, 2),
    (32, 640, 1280, 3, 1), (32, 1280, 1280, 3, 1), (32, 2560, 1280, 3, 1), (64, 1920, 640, 3, 1), (128, 960, 320, 3, 1), (128, 320, 4, 3, 1))]
GROUP_NORM = [(b, side, side, c) for b in (1, 2) for side, c in ((128, 320), (64, 640), (32, 1280), (128, 960))]
LAYER_NORM = [(b, n, c) for b in (1, 2) for n, c in ((4096, 640), (1024, 1280))]
DRY = {"ATTENTION": [(1, 16, 16, 2, 8)], "LINEAR": [(8, 16, 8)], "LORA": [(8, 16, 8, 4)], "CONV": [(1, 8, 4, 8, 3, 1)],
       "GROUP_NORM": [(1, 4, 4, 32)], "LAYER_NORM": [(1, 4, 16)]}
L2_BYTES = 200 << 20  # rotated buffers are larger than this, so that inputs come from memory


class Bench:
    """Times work on the device and writes lines."""

    def __init__(self, out, device, end):
        self.out, self.device, self.end = out, device, end

    def line(self, **fields):
        print(json.dumps(fields), file=self.out, flush=True)

    def left(self):
        return self.end - time.monotonic()

    def ms(self, works, repeats=24):
        """Median of one call; `works` are the same call on different buffers."""
        for work in works[:3]:
            work()
        times = []
        for i in range(repeats):
            work = works[i % len(works)]
            if self.device == "cuda":
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                work()
                end.record()
                torch.cuda.synchronize()
                times.append(begin.elapsed_time(end))
            else:
                start = time.perf_counter()
                work()
                times.append(1e3 * (time.perf_counter() - start))
        return statistics.median(times)

    def copies(self, tensors):
        """The tensors, and as many further sets of them as fill more than the L2 cache."""
        size = sum(t.numel() * t.element_size() for t in tensors)
        count = 1 if self.device == "cpu" else max(2, min(24, L2_BYTES // max(size, 1) + 1))
        return [tensors] + [[torch.randn_like(t) for t in tensors] for _ in range(count - 1)]

    def operation(self, op, dims, dtype, forward, tensors, wanted, backend="torch"):
        """Forward, and the gradients of `wanted` (index lists by name)."""
        sets = self.copies(tensors)
        with torch.no_grad():
            ms = self.ms([lambda s=s: forward(*s) for s in sets])
        self.line(**{"op": op, "pass": "forward", "dims": dims, "dtype": dtype, "ms": ms, "backend": backend})
        for name, indices in wanted.items():
            works = []
            for s in sets[: max(1, min(len(sets), 6))]:
                leaves = [t.detach().requires_grad_(i in indices) for i, t in enumerate(s)]
                y = forward(*leaves)
                dy = torch.randn_like(y)
                args = [leaves[i] for i in indices]
                works.append(lambda y=y, dy=dy, args=args: torch.autograd.grad(y, args, dy, retain_graph=True))
            self.line(**{"op": op, "pass": name, "dims": dims, "dtype": dtype, "ms": self.ms(works), "backend": backend})


def attention(bench, dtype, shape):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    b, n, k, h, d = shape
    tensors = [torch.randn(b, length, h, d, device=bench.device, dtype=dtype) for length in (n, k, k)]
    dims = [[b, n, h, d], [b, k, h, d], [b, k, h, d]]
    run = lambda q, k, v: F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)
    names = ["FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION"] if bench.device == "cuda" else ["MATH"]
    for name in names:
        backend = getattr(SDPBackend, name, None)
        if backend is None:
            continue
        try:
            with sdpa_kernel(backend):
                bench.operation("attention", dims, str(dtype)[6:], run, tensors, {"backward": [0, 1, 2]}, name.lower())
        except RuntimeError as error:
            bench.line(op="attention", dims=dims, backend=name.lower(), skipped=str(error).splitlines()[0])


def operations(bench, dtype):
    name, device = str(dtype)[6:], bench.device
    new = lambda *dims: torch.randn(*dims, device=device, dtype=dtype)
    for shape in ATTENTION:
        attention(bench, dtype, shape)
    for m, k, n in LINEAR:
        bench.operation("linear", [[m, k], [n, k], [n]], name, F.linear, [new(m, k), new(n, k), new(n)], {"backward[0]": [0], "backward[1]": [1]})
    for m, k, n, r in LORA:
        run = lambda x, w, b, a, u: F.linear(x, w, b) + F.linear(F.linear(x, a), u)
        tensors = [new(m, k), new(n, k), new(n), new(r, k), new(n, r)]
        dims = [[m, k], [n, k], [n], [r, k], [n, r]]
        bench.operation("lora_linear", dims, name, run, tensors, {"backward": [0, 3, 4]}, "eager")
    for b, side, c, o, k, s in CONV:
        x = new(b, c, side, side).to(memory_format=torch.channels_last)
        w = new(o, c, k, k).to(memory_format=torch.channels_last)
        run = lambda x, w, bias, s=s, k=k: F.conv2d(x, w, bias, stride=s, padding=k // 2)
        dims = [[b, side, side, c], [o, k, k, c], [o]]
        bench.operation("conv2d", dims, name, run, [x, w, new(o)], {"backward[0]": [0], "backward[1]": [1]}, "cudnn channels_last")
    for b, h, w, c in GROUP_NORM:
        x = new(b, c, h, w).to(memory_format=torch.channels_last)
        run = lambda x, g, d: F.silu(F.group_norm(x, 32, g, d))
        bench.operation("group_norm", [[b, h, w, c], [c], [c]], name, run, [x, new(c), new(c)], {"backward[0]": [0]}, "eager")
    for b, n, c in LAYER_NORM:
        run = lambda x, g, d, c=c: F.layer_norm(x, (c,), g, d)
        bench.operation("layer_norm", [[b, n, c], [c], [c]], name, run, [new(b, n, c), new(c), new(c)], {"backward[0]": [0]})


def sdxl_config():
    return dict(sample_size=128, in_channels=4, out_channels=4, block_out_channels=(320, 640, 1280), layers_per_block=2,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 2, 10),
                attention_head_dim=(5, 10, 20), cross_attention_dim=2048, use_linear_projection=True, addition_embed_type="text_time",
                addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816)


def model(bench):
    """SDXL's U-Net with random weights: forward of a guided picture, a LoRA r32 training step, 30 denoising steps."""
    try:
        from diffusers import UNet2DConditionModel
        from peft import LoraConfig
    except ImportError as error:
        bench.line(model="sdxl", skipped=f"{error}; give --wheels a folder with diffusers and peft")
        return
    with torch.device("cuda"):
        unet = UNet2DConditionModel(**sdxl_config()).to(torch.bfloat16).requires_grad_(False)
    unet.to(memory_format=torch.channels_last)

    def inputs(n):
        new = lambda *dims: torch.randn(*dims, device="cuda", dtype=torch.bfloat16)
        extra = {"text_embeds": new(n, 1280), "time_ids": torch.tensor([[1024.0, 1024, 0, 0, 1024, 1024]] * n, device="cuda")}
        return new(n, 4, 128, 128), torch.full((n,), 500, device="cuda"), new(n, 77, 2048), extra

    def forward(call, n):
        x, t, context, extra = inputs(n)
        with torch.no_grad():
            return bench.ms([lambda: call(x, t, context, added_cond_kwargs=extra).sample], 10)

    bench.line(model="sdxl", what="forward", batch=2, mode="eager", ms=forward(unet, 2), peak_bytes=torch.cuda.max_memory_allocated())
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    unet.add_adapter(LoraConfig(r=32, lora_alpha=32, init_lora_weights="gaussian", target_modules=targets))
    trained = [p for p in unet.parameters() if p.requires_grad]
    for p in trained:
        p.data = p.data.float()
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def step(call, n):
        x, t, context, extra = inputs(n)
        target = torch.randn_like(x)

        def work():
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cuda", torch.bfloat16):
                loss = F.mse_loss(call(x, t, context, added_cond_kwargs=extra).sample.float(), target.float())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()

        torch.cuda.reset_peak_memory_stats()
        return bench.ms([work], 8)

    for n in (1, 4):
        ms = step(unet, n)
        bench.line(model="sdxl", what="train", batch=n, mode="eager", ms=ms, peak_bytes=torch.cuda.max_memory_allocated())
    if bench.left() > 150:
        compiled = torch.compile(unet)
        with contextlib.suppress(Exception):
            bench.line(model="sdxl", what="train", batch=4, mode="compiled", ms=step(compiled, 4))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    parser.add_argument("--wheels", default="")
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--dry", action="store_true")
    args = parser.parse_args()
    if args.wheels:
        sys.path.insert(0, args.wheels)
    if args.dry:
        globals().update(DRY)
    elif not torch.cuda.is_available():
        sys.exit("gpu_peers.py: torch finds no GPU; --dry tries the script on the CPU")
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    with open(args.out, "w") as out:
        bench = Bench(out, "cpu" if args.dry else "cuda", time.monotonic() + args.seconds)
        bench.line(framework=f"torch {torch.__version__}", device="cpu" if args.dry else torch.cuda.get_device_name())
        operations(bench, torch.bfloat16)
        if not args.dry:
            model(bench)


if __name__ == "__main__":
    main()
