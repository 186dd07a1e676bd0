#!/usr/bin/env python3
"""Does diffusers load what full training wrote, and compute the same?

    selvedge train CONFIG.toml --out RUN --set method.loss=mse --set train.mode=full --set 'train.parts=["unet"]'
    python tools/diffusers_model.py RUN/model --selvedge target/release/selvedge

Loads the folder with `StableDiffusionXLPipeline.from_pretrained`, in f32, and compares relative norms of differences with
those of the program: the U-Net, both halves of the autoencoder and both text encoders on random inputs, then a picture's
last latent after four Euler steps with guidance, from the same prompt and noise. Ends with 1 when one is BOUND or more.

Measured 2026-11-21 (torch 2.9.1, diffusers 0.42.1, transformers 5.23.0) on nano after three steps of training U-Net and first
text encoder: U-Net 6.2e-7, autoencoder 7.2e-7, text encoders 6.5e-7, latent 4.9e-6.
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

BOUND = 1e-4
PROMPT, NEGATIVE = "a photo of a dotted bear and a striped bear", "a cat"
STEPS, GUIDANCE = 4, 5.0


class Program:
    """The program's side: one call a component."""

    def __init__(self, binary, model, folder):
        self.binary, self.model, self.folder = binary, model, folder

    def call(self, *words):
        done = subprocess.run([self.binary, *map(str, words), "--device", "cpu"], capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(map(str, words))}: {done.stderr}")

    def forward(self, component, inputs):
        given, made = self.folder / "in.safetensors", self.folder / "out.safetensors"
        save_file({k: v.contiguous() for k, v in inputs.items()}, given)
        self.call("forward", component, "--model", self.model, "--inputs", given, "--outputs", made)
        return load_file(made)

    def latents(self, noise, side):
        start, end = self.folder / "start.safetensors", self.folder / "end.safetensors"
        save_file({"latents": noise}, start)
        self.call(
            "generate", "--base", self.model, "--prompt", PROMPT, "--negative", NEGATIVE, "--sampler", "euler",
            "--steps", STEPS, "--guidance", GUIDANCE, "--height", side, "--width", side, "--latents", start,
            "--save-latents", end, "--out", self.folder / "pictures",
        )
        return load_file(end)["latents"]


def components(pipe, program):
    """Name, ours, theirs of every component on random inputs."""
    unet, vae = pipe.unet, pipe.vae
    pooled = pipe.text_encoder_2.config.projection_dim
    i = {
        "sample": torch.randn(2, unet.config.in_channels, 8, 12),
        "timestep": torch.tensor([17.0, 801.0]),
        "encoder_hidden_states": torch.randn(2, 77, unet.config.cross_attention_dim),
        "text_embeds": torch.randn(2, pooled),
        "time_ids": torch.tensor([[64.0, 96.0, 0.0, 0.0, 64.0, 96.0]]).repeat(2, 1),
    }
    added = {"text_embeds": i["text_embeds"], "time_ids": i["time_ids"]}
    theirs = unet(i["sample"], i["timestep"], i["encoder_hidden_states"], added_cond_kwargs=added).sample
    yield "unet", program.forward("unet", i)["sample"], theirs
    picture, latent = torch.rand(1, 3, 64, 48) * 2 - 1, torch.randn(1, vae.config.latent_channels, 8, 6)
    yield "vae-encoder", program.forward("vae-encoder", {"sample": picture})["moments"], vae._encode(picture)
    yield "vae-decoder", program.forward("vae-decoder", {"sample": latent})["sample"], vae.decode(latent).sample
    pairs = [("text-encoder", pipe.tokenizer, pipe.text_encoder), ("text-encoder-2", pipe.tokenizer_2, pipe.text_encoder_2)]
    for word, tokenizer, encoder in pairs:
        ids = tokenizer([PROMPT, NEGATIVE], padding="max_length", return_tensors="pt").input_ids
        ours = program.forward(word, {"input_ids": ids})
        theirs = encoder(ids, output_hidden_states=True)
        yield word, ours["hidden_states.penultimate"], theirs.hidden_states[-2]
        if word == "text-encoder-2":
            yield f"{word}, pooled", ours["text_embeds"], theirs.text_embeds


def picture(pipe, program):
    """Name, ours, theirs of a picture's last latent."""
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    noise = torch.randn(1, pipe.unet.config.in_channels, pipe.unet.config.sample_size, pipe.unet.config.sample_size)
    theirs = pipe(
        PROMPT, negative_prompt=NEGATIVE, num_inference_steps=STEPS, guidance_scale=GUIDANCE, height=side, width=side,
        latents=noise.clone(), output_type="latent",
    ).images
    yield f"latent after {STEPS} steps", program.latents(noise, side), theirs


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, help="a run's folder `model`")
    parser.add_argument("--selvedge", default="target/release/selvedge", help="the program")
    args = parser.parse_args()
    torch.manual_seed(0)
    pipe = StableDiffusionXLPipeline.from_pretrained(args.model, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        program = Program(args.selvedge, args.model, pathlib.Path(folder))
        for part in (components, picture):
            for name, ours, theirs in part(pipe, program):
                error = float((ours - theirs).norm() / theirs.norm()) if ours.shape == theirs.shape else float("inf")
                print(f"{name:24} {error:.2e}")
                worst = max(worst, error)
    return 0 if worst < BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
