"""Encodes the rendered shards once: posterior moments (f16 [n, 8, 16, 16]) and the scaling factor.

    python encode.py --work WORK [--shards N]

Reads the first N shards of WORK/pictures and WORK/base/vae, writes WORK/moments/NNN.pt, then sets
scaling_factor in the VAE's configuration to 1 / (standard deviation of a posterior sample).
"""
import argparse
import glob
import json
import os

import numpy as np
import torch
from diffusers import AutoencoderKL

from fused import speed_up


def to_input(pictures):
    """u8 NHWC -> f32 NCHW in [-1, 1] (NCHW: channels-last GroupNorm is slow backwards on a CPU)."""
    x = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)
    return x.float().div_(127.5).sub_(1).contiguous()


def encode(vae, pictures, batch=20):
    """Posterior moments of a shard."""
    moments = []
    for i in range(0, len(pictures), batch):
        x = to_input(pictures[i:i + batch]).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            out = vae.encode(x).latent_dist.parameters
        moments.append(out.float().half())
    return torch.cat(moments)


def set_scaling_factor(work):
    """Makes scaled latents have unit variance."""
    files = sorted(glob.glob(work + "/moments/*.pt"))
    moments = torch.cat([torch.load(f) for f in files]).float()
    variance = moments[:, :4].var() + moments[:, 4:].clamp(-30, 20).exp().mean()
    path = work + "/base/vae/config.json"
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    config["scaling_factor"] = round(1 / float(variance.sqrt()), 5)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2)
    print("pictures", len(moments), "scaling_factor", config["scaling_factor"])


@torch.no_grad()
def main():
    """Encodes the shards that are not there yet."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", required=True)
    parser.add_argument("--shards", type=int, default=60)
    args = parser.parse_args()
    work = args.work
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    os.makedirs(work + "/moments", exist_ok=True)
    vae = AutoencoderKL.from_pretrained(work + "/base/vae", torch_dtype=torch.float32)
    vae = speed_up(vae.eval())
    for file in sorted(glob.glob(work + "/pictures/*.npy"))[:args.shards]:
        out = f"{work}/moments/{os.path.basename(file)[:-4]}.pt"
        if not os.path.exists(out):
            torch.save(encode(vae, np.load(file)), out + ".tmp")
            os.replace(out + ".tmp", out)
    set_scaling_factor(work)


if __name__ == "__main__":
    main()
