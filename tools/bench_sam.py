"""Image encoders of Segment Anything on one picture of 1024 x 1024: selvedge against the original PyTorch code, f32, CPU.

    pip install segment-anything==1.0 mobilesam-mirror==1.0.0 timm torch torchvision safetensors
    python tools/bench_sam.py [--selvedge PATH] [--rounds N] [--threads N]

ViT-B and MobileSAM's TinyViT, with random weights. The two sides take turns; PyTorch's time is that of a forward pass,
selvedge's that of the whole process, start and reading of the weights included. Both peaks are those of a process of its own.
One JSON line an encoder: seconds (medians), peak bytes, ratios selvedge / PyTorch. To hold both to AVX2 set SELVEDGE_ISA=avx2
and ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIDE = 1024


def vit_b():
    from functools import partial

    import torch
    from segment_anything.modeling import ImageEncoderViT

    norm = partial(torch.nn.LayerNorm, eps=1e-6)
    return ImageEncoderViT(
        depth=12, embed_dim=768, img_size=SIDE, mlp_ratio=4, norm_layer=norm, num_heads=12, patch_size=16,
        qkv_bias=True, use_rel_pos=True, global_attn_indexes=[2, 5, 8, 11], window_size=14, out_chans=256,
    )


def tiny_vit():
    from mobile_sam.modeling.tiny_vit_sam import TinyViT

    return TinyViT(
        img_size=SIDE, in_chans=3, num_classes=1, embed_dims=[64, 128, 160, 320], depths=[2, 2, 6, 2],
        num_heads=[2, 4, 5, 10], window_sizes=[7, 7, 14, 7], mlp_ratio=4.0, drop_rate=0.0, drop_path_rate=0.0,
        use_checkpoint=False, mbconv_expand_ratio=4.0, local_conv_size=3,
    )


ENCODERS = {"vit-b": vit_b, "tiny-vit": tiny_vit}


def peak_bytes(status):
    """VmHWM of a process."""
    lines = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(lines[0].split()[1]) * 1024 if lines else 0


def worker(name, folder, threads):
    """The PyTorch side: answers every line on standard input with a forward pass."""
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(threads)
    encoder = ENCODERS[name]().eval()
    weights = load_file(folder / "sam.safetensors")
    mine = {k.removeprefix("image_encoder."): v for k, v in weights.items()}
    encoder.load_state_dict(mine, strict=False)
    pixels = load_file(folder / "in.safetensors")["pixel_values"]
    with torch.no_grad():
        for _ in sys.stdin:
            begin = time.perf_counter()
            out = encoder(pixels)
            seconds = time.perf_counter() - begin
            norm = float(out.double().norm())
            print(json.dumps([seconds, peak_bytes(Path("/proc/self/status").read_text()), norm]), flush=True)


def write(name, folder):
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    encoder = ENCODERS[name]()
    drop = ("norm_head.", "head.")
    state = {f"image_encoder.{k}": v.contiguous().clone() for k, v in encoder.state_dict().items()
             if not k.startswith(drop) and not k.endswith(("attention_bias_idxs", "num_batches_tracked"))}
    save_file(state, folder / "sam.safetensors")
    save_file({"pixel_values": torch.randn(1, 3, SIDE, SIDE)}, folder / "in.safetensors")


def ours(selvedge, folder, threads):
    """Seconds and peak bytes of one process, and the norm of its answer."""
    from safetensors.torch import load_file

    out = folder / "out.safetensors"
    command = [selvedge, "--threads", str(threads), "forward", "sam-image-encoder", "--device", "cpu"]
    command += ["--model", folder / "sam.safetensors", "--inputs", folder / "in.safetensors", "--outputs", out]
    begin = time.perf_counter()
    process = subprocess.Popen([str(c) for c in command])
    # wait4's maximum counts what Python held before the program took its place
    peak = 0
    while process.poll() is None:
        try:
            peak = max(peak, peak_bytes(Path(f"/proc/{process.pid}/status").read_text()))
        except OSError:
            pass
        time.sleep(0.005)
    seconds = time.perf_counter() - begin
    if process.returncode:
        sys.exit(f"selvedge failed: {' '.join(map(str, command))}")
    norm = float(load_file(out)["image_embeddings"].double().norm())
    return seconds, peak, norm


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--selvedge", default="target/release/selvedge")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args.worker[0], Path(args.worker[1]), args.threads)
    for name in ENCODERS:
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            write(name, folder)
            command = [sys.executable, __file__, "--threads", str(args.threads), "--worker", name, str(folder)]
            torch_side = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            pairs = []
            for _ in range(args.rounds + 1):
                torch_side.stdin.write("go\n")
                torch_side.stdin.flush()
                theirs = json.loads(torch_side.stdout.readline())
                pairs.append((ours(args.selvedge, folder, args.threads), theirs))
            torch_side.stdin.close()
            torch_side.wait()
            seconds = [statistics.median(p[side][0] for p in pairs[1:]) for side in (0, 1)]
            peak = [max(p[side][1] for p in pairs) for side in (0, 1)]
            norms = [pairs[0][side][2] for side in (0, 1)]
            print(json.dumps({
                "encoder": name, "threads": args.threads, "seconds": seconds, "time_ratio": seconds[0] / seconds[1],
                "peak_bytes": peak, "peak_ratio": peak[0] / peak[1], "norms": norms,
            }), flush=True)


if __name__ == "__main__":
    main()
