"""The same work as benches/steps.rs in PyTorch: one LoRA training step and one denoising step, f32 or bf16 autocast, CPU.

    python tools/bench_torch.py [--iterations N] [--threads N] [--part train|denoise|all] [--dtype f32|bf16]

Mid-size SDXL configuration (benches/midsize.json): channels 160/320/640, transformer depth 0/2/4, latent 64x64, one picture, 77 tokens.
Prints one JSON line: median milliseconds, and the peak resident memory of the process in bytes (run each part in
its own process to get the peak of that part).
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig

CONFIG = json.loads((Path(__file__).parent.parent / "benches/midsize.json").read_text())
CONFIG = {k: tuple(v) if isinstance(v, list) else v for k, v in CONFIG.items() if k[0] != "_"}


def peak_bytes():
    """VmHWM of this process."""
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def median_ms(work, iterations):
    """Median time of `work` after one warm-up."""
    work()
    times = []
    for _ in range(iterations):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(times)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--part", choices=["train", "denoise", "all"], default="all")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32", help="bf16: f32 weights under autocast")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**CONFIG).requires_grad_(False)
    x, noise = torch.randn(1, 4, 64, 64), torch.randn(1, 4, 64, 64)
    context = torch.randn(1, 77, CONFIG["cross_attention_dim"])
    extra = {"text_embeds": torch.randn(1, 512), "time_ids": torch.tensor([[512.0, 512, 0, 0, 512, 512]])}
    t = torch.tensor([500])

    def call():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.dtype == "bf16"):
            return unet(x, t, context, added_cond_kwargs=extra).sample.float()

    out = {"framework": f"torch {torch.__version__}", "threads": args.threads, "dtype": args.dtype}

    def denoise():
        with torch.no_grad():
            return call()

    if args.part in ("denoise", "all"):
        out["denoise_step_ms"] = median_ms(denoise, args.iterations)
    if args.part in ("train", "all"):
        targets = ["to_q", "to_k", "to_v", "to_out.0"]
        unet.add_adapter(LoraConfig(r=args.rank, lora_alpha=args.rank, init_lora_weights="gaussian", target_modules=targets))
        parameters = [p for p in unet.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=1e-4)

        def train():
            optimizer.zero_grad(set_to_none=True)
            loss = torch.nn.functional.mse_loss(call(), noise)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()

        out["trainable_parameters"] = sum(p.numel() for p in parameters)
        out["train_step_ms"] = median_ms(train, args.iterations)
    out["peak_bytes"] = peak_bytes()
    print(json.dumps(out))


if __name__ == "__main__":
    main()
