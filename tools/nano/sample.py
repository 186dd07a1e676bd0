"""Draws a grid of pictures with nano through diffusers' own SDXL pipeline.

    python sample.py FOLDER grid.png [--cfg 4.5] [--steps 30] [--seed 0] [--n 32]

The pipeline is loaded from the folder as it is, so this also proves the format. Sampling is
Euler with the "leading" spacing; the negative prompt is empty.
"""
import argparse

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

import toyworld


def unseen_prompts(n=32, seed=4242):
    """`n` prompts, half with one subject, half with two; every class and background occurs."""
    rng = np.random.default_rng(seed)
    classes, places = list(toyworld.CLASSES), list(toyworld.BACKGROUNDS.values())
    prompts = []
    for i in range(n):
        subjects = [toyworld.random_subject(rng) for _ in range(1 if i < n // 2 else 2)]
        while subjects[0]["cls"] != classes[i % len(classes)]:
            subjects[0] = toyworld.random_subject(rng)
        nouns = " and a ".join(toyworld.noun(s) for s in subjects)
        prompts.append(f"a photo of a {nouns}, {places[i * 5 % len(places)]}")
    return prompts


def grid(pictures, columns=8, size=160):
    """Puts equally sized HWC uint8 pictures on a sheet, row by row."""
    tiles = [Image.fromarray(p).resize((size, size), Image.BICUBIC) for p in pictures]
    sheet = Image.new("RGB", (columns * size, -(-len(tiles) // columns) * size))
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (i % columns * size, i // columns * size))
    return sheet


def draw(folder, prompts, steps, cfg, seed):
    """Samples one picture a prompt (f32)."""
    pipe = StableDiffusionXLPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(len(prompts), 4, 16, 16, generator=torch.Generator().manual_seed(seed))
    out = []
    for i in range(0, len(prompts), 16):
        with torch.autocast("cpu", torch.bfloat16):
            out += list(pipe(prompts[i:i + 16], negative_prompt=[""] * len(prompts[i:i + 16]),
                             height=128, width=128, num_inference_steps=steps,
                             guidance_scale=cfg, latents=noise[i:i + 16].clone(),
                             output_type="np").images)
    return [(p * 255).round().astype(np.uint8) for p in out]


def main():
    """Draws the grid and the list of its prompts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("out")
    parser.add_argument("--cfg", type=float, default=4.5)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--prompt", action="append")
    args = parser.parse_args()
    torch.set_num_threads(1)
    prompts = args.prompt or unseen_prompts(args.n)
    grid(draw(args.folder, prompts, args.steps, args.cfg, args.seed)).save(args.out)
    with open(args.out.rsplit(".", 1)[0] + ".txt", "w", encoding="utf-8") as text:
        text.writelines(f"r{i // 8 + 1}c{i % 8 + 1} {p}\n" for i, p in enumerate(prompts))


if __name__ == "__main__":
    main()
