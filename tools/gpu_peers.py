"""What torch needs for the work of `selvedge kernels bench` and `selvedge bench step`, on the same machine in the same run.

    python3 tools/gpu_peers.py --part operations|steps|save|picture|compiled --out peers.jsonl [--wheels DIR] [--seconds N] [--dry]

One JSON object a line: {"op", "pass", "dims", "dtype", "ms", "backend"} for single operations (dims in selvedge's
layouts, so that tools/gpu_report.py can put both beside each other) and {"model", "what", "batch", "mode", "ms", "peak_bytes"}
for SDXL; "low_ms" and "high_ms" are the 95 % interval of the median. save writes SDXL with random weights as a folder that
both programs load, picture samples from it. What does not fit into N seconds is named by one line. Attention takes the fastest of torch's backends; convolutions are channels-last with cuDNN's search on. Medians of
CUDA events over rotated buffers of random data. diffusers and peft are looked for in DIR when the machine lacks them; without
them the SDXL lines are left out and a line says so. --dry: tiny shapes on the CPU, to try the script itself.
"""

import argparse
import json
import random
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


def interval(times):
    """The median and its 95 % interval, by drawing again."""
    draw = random.Random(1)
    medians = sorted(statistics.median(draw.choices(times, k=len(times))) for _ in range(400))
    return {"ms": statistics.median(times), "low_ms": medians[10], "high_ms": medians[-11]}


class Bench:
    """Times work on the device and writes lines."""

    def __init__(self, out, device, end):
        self.out, self.device, self.end = out, device, end

    def line(self, **fields):
        print(json.dumps(fields), file=self.out, flush=True)

    def left(self):
        return self.end - time.monotonic()

    def times(self, works, repeats=24):
        """Median and interval of one call; `works` are the same call on different buffers."""
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
        return interval(times)

    def copies(self, tensors):
        """The tensors, and as many further sets of them as fill more than the L2 cache."""
        size = sum(t.numel() * t.element_size() for t in tensors)
        count = 1 if self.device == "cpu" else max(2, min(24, L2_BYTES // max(size, 1) + 1))
        return [tensors] + [[torch.randn_like(t) for t in tensors] for _ in range(count - 1)]

    def operation(self, op, dims, dtype, forward, tensors, wanted, backend="torch"):
        """Forward, and the gradients of `wanted` (index lists by name)."""
        if self.left() < 1:
            self.line(op=op, dims=dims, skipped="no time was left")
            return
        sets = self.copies(tensors)
        with torch.no_grad():
            times = self.times([lambda s=s: forward(*s) for s in sets])
        self.line(**{"op": op, "pass": "forward", "dims": dims, "dtype": dtype, **times, "backend": backend})
        for name, indices in wanted.items():
            works = []
            for s in sets[: max(1, min(len(sets), 6))]:
                leaves = [t.detach().requires_grad_(i in indices) for i, t in enumerate(s)]
                y = forward(*leaves)
                dy = torch.randn_like(y)
                args = [leaves[i] for i in indices]
                works.append(lambda y=y, dy=dy, args=args: torch.autograd.grad(y, args, dy, retain_graph=True))
            self.line(**{"op": op, "pass": name, "dims": dims, "dtype": dtype, **self.times(works), "backend": backend})


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


def sdxl_config(tiny=False):
    return dict(sample_size=128, in_channels=4, out_channels=4, block_out_channels=(32, 64, 128) if tiny else (320, 640, 1280),
                layers_per_block=2, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                transformer_layers_per_block=1 if tiny else (1, 2, 10), attention_head_dim=(1, 2, 4) if tiny else (5, 10, 20),
                cross_attention_dim=64 if tiny else 2048, use_linear_projection=True, addition_embed_type="text_time",
                addition_time_embed_dim=32 if tiny else 256, projection_class_embeddings_input_dim=224 if tiny else 2816)


def unet(bench, dry):
    """SDXL's U-Net with random weights, or a tiny one of the same kind on the CPU."""
    from diffusers import UNet2DConditionModel

    with torch.device(bench.device):
        model = UNet2DConditionModel(**sdxl_config(dry)).to(torch.float32 if dry else torch.bfloat16).requires_grad_(False)
    return model.to(memory_format=torch.channels_last)


def inputs(bench, model, n):
    config, dtype = model.config, next(model.parameters()).dtype
    side = 16 if bench.device == "cpu" else 128
    new = lambda *dims: torch.randn(*dims, device=bench.device, dtype=dtype)
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    extra = {"text_embeds": new(n, pooled), "time_ids": torch.tensor([[1024.0, 1024, 0, 0, 1024, 1024]] * n, device=bench.device)}
    return new(n, 4, side, side), torch.full((n,), 500, device=bench.device), new(n, 77, config.cross_attention_dim), extra


def trained(model):
    from peft import LoraConfig

    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    model.add_adapter(LoraConfig(r=32, lora_alpha=32, init_lora_weights="gaussian", target_modules=targets))
    found = [p for p in model.parameters() if p.requires_grad]
    for p in found:
        p.data = p.data.float()
    return found


def training_step(bench, model, call, adapters, n, repeats=8):
    """Forward, backward, clipping and AdamW of adapters of rank 32."""
    optimizer = torch.optim.AdamW(adapters, lr=1e-4, fused=bench.device == "cuda")
    x, t, context, extra = inputs(bench, model, n)
    target = torch.randn_like(x)

    def work():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(bench.device, torch.bfloat16):
            loss = F.mse_loss(call(x, t, context, added_cond_kwargs=extra).sample.float(), target.float())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(adapters, 1.0)
        optimizer.step()

    return bench.times([work], repeats)


def peak(bench):
    return torch.cuda.max_memory_allocated() if bench.device == "cuda" else None


def steps(bench, args):
    """Forward of a guided picture, training steps with 1 and 4 pictures."""
    model = unet(bench, args.dry)
    x, t, context, extra = inputs(bench, model, 2)
    with torch.no_grad():
        times = bench.times([lambda: model(x, t, context, added_cond_kwargs=extra).sample], 10)
    bench.line(model="sdxl", what="denoise", batch=2, mode="eager", **times, peak_bytes=peak(bench))
    adapters = trained(model)
    for n in (1, 4):
        if bench.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        times = training_step(bench, model, model, adapters, n)
        bench.line(model="sdxl", what="train", batch=n, mode="eager", **times, peak_bytes=peak(bench))


def compiled(bench, args):
    """The same training step through torch.compile; why not, where it fails."""
    model = unet(bench, args.dry)
    adapters = trained(model)
    try:
        times = training_step(bench, model, torch.compile(model), adapters, 4, 6)
        bench.line(model="sdxl", what="train", batch=4, mode="compiled", **times, peak_bytes=peak(bench))
    except Exception as error:  # whatever the compiler says is the result
        bench.line(model="sdxl", what="train", batch=4, mode="compiled", skipped=f"{type(error).__name__}: {str(error).splitlines()[0]}")


def save(bench, args):
    """SDXL's four models with random weights and the given tokenizer as a folder of diffusers."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    tokenizer, dtype = CLIPTokenizer.from_pretrained(args.tokenizer), torch.float16
    small = args.dry
    own = dict(vocab_size=49408, eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id)
    first = CLIPTextConfig(**own, hidden_size=32 if small else 768, intermediate_size=64 if small else 3072, num_hidden_layers=2 if small else 12,
                           num_attention_heads=1 if small else 12, projection_dim=32 if small else 768)
    second = CLIPTextConfig(**own, hidden_size=32 if small else 1280, intermediate_size=64 if small else 5120, num_hidden_layers=2 if small else 32,
                            num_attention_heads=1 if small else 20, projection_dim=32 if small else 1280, hidden_act="gelu")
    widths = (32, 32, 32, 32) if small else (128, 256, 512, 512)
    with torch.device(bench.device):
        parts = dict(
            vae=AutoencoderKL(block_out_channels=widths, latent_channels=4, layers_per_block=1 if small else 2, scaling_factor=0.13025,
                              down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4, sample_size=1024),
            text_encoder=CLIPTextModel(first), text_encoder_2=CLIPTextModelWithProjection(second), unet=UNet2DConditionModel(**sdxl_config(small)))
    scheduler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1)
    pipeline = StableDiffusionXLPipeline(**{k: m.to(dtype) for k, m in parts.items()}, tokenizer=tokenizer, tokenizer_2=tokenizer, scheduler=scheduler)
    begin = time.perf_counter()
    pipeline.save_pretrained(args.folder)
    bench.line(model="sdxl", what="saved", folder=str(args.folder), seconds=time.perf_counter() - begin)


def picture(bench, args):
    """Thirty steps to a picture of 1024 x 1024 through diffusers, decoded in f32 as ours is."""
    from diffusers import StableDiffusionXLPipeline

    begin = time.perf_counter()
    dtype = torch.float32 if args.dry else torch.bfloat16
    pipeline = StableDiffusionXLPipeline.from_pretrained(args.folder, torch_dtype=dtype).to(bench.device)
    pipeline.vae.to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    loaded = time.perf_counter() - begin
    side, count = (64, 2) if args.dry else (1024, 30)

    def work():
        z = pipeline("a photo of a bear", num_inference_steps=count, guidance_scale=5.0, height=side, width=side, output_type="latent").images
        return pipeline.vae.decode(z.float() / pipeline.vae.config.scaling_factor).sample

    with torch.no_grad():
        times = bench.times([work], 3)
    bench.line(model="sdxl", what="picture", batch=1, mode="eager", **times, loaded_seconds=loaded, peak_bytes=peak(bench))


def main():
    parts = {"operations": lambda bench, _: operations(bench, torch.bfloat16), "steps": steps, "save": save, "picture": picture, "compiled": compiled}
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", choices=parts, default="operations")
    parser.add_argument("--out", required=True)
    parser.add_argument("--folder", default="", help="of save and picture")
    parser.add_argument("--tokenizer", default="", help="a folder with vocab.json and merges.txt, for save")
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
        try:
            parts[args.part](bench, args)
        except ImportError as error:
            bench.line(model="sdxl", what=args.part, skipped=f"{error}; give --wheels a folder with diffusers, transformers and peft")


if __name__ == "__main__":
    main()
