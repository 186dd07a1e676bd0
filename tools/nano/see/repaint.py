"""Rendered pictures as the base paints them: noise is added up to a time and taken away again by the base.

The base keeps the outlines and paints edges, limbs, faces and patterns anew, so masks and boxes stay near enough to
be the truth for pictures that nobody rendered (Meng et al., SDEdit, 2021). That holds where the base has learned
such scenes: three toys or small ones become others, a toy whose colours are not said takes others.
"""
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

import worlds  # makes the folder above known
import toyworld
from fused import speed_up
from model import TIME_IDS, alphas_cumprod, encode_text
from tokenizer import Tokenizer

NANO = Path(__file__).resolve().parents[3] / "src/assets/nano"
#: Times that noise is added up to, steps back from there, and guidance.
LOW, HIGH, STEPS, GUIDANCE = 120, 420, 6, 4.0
#: The smallest toy that is painted anew.
SMALLEST = 26
#: Largest mean difference (of 255) of the four worst cells beside the toys, and of a toy; largest share of a box in another.
MOVED, OVERLAP = 45, 0.3


def faithful(spec):
    """Whether the base paints this scene as it is."""
    return len(spec["subjects"]) < 3 and min(s["scale"] for s in spec["subjects"]) >= SMALLEST


def kept(before, after, masks):
    """Whether the base left the toys where they were: nothing new beside them, none gone, none merged."""
    masks = [m for m in masks if m.any()]
    difference = np.abs(after.astype(np.float32) - before).mean(-1)

    def cells(values):
        return values.reshape(16, 8, 16, 8).mean((1, 3))

    beside = np.sort(cells(difference)[cells(np.any(masks, 0)) == 0])
    if max([beside[-4:].mean(), *(difference[m].mean() for m in masks)]) > MOVED:
        return False
    boxes = np.array([worlds.box_of(m) for m in masks], float)
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            both = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
            if both > OVERLAP * min((a[2:] - a[:2]).prod(), (b[2:] - b[:2]).prod()):
                return False
    return True


def caption(spec):
    """Everything about a scene in words."""
    names = [toyworld.noun(s) for s in spec["subjects"]]
    place = toyworld.BACKGROUNDS["white" if "flat" in spec else spec["bg"]]
    return f"a photo of a {' and a '.join(names)}, {place}"


class Base:
    """The embedded base in bf16 on one thread."""

    def __init__(self):
        torch.set_num_threads(1)
        self.vae = AutoencoderKL.from_pretrained(NANO / "vae", torch_dtype=torch.float32).eval()
        unet = UNet2DConditionModel.from_pretrained(NANO / "unet", torch_dtype=torch.float32)
        self.unet, self.tokenizer = speed_up(unet.eval()), Tokenizer(str(NANO / "tokenizer"))
        self.one = CLIPTextModel.from_pretrained(NANO / "text_encoder", dtype=torch.float32).eval()
        self.two = CLIPTextModelWithProjection.from_pretrained(
            NANO / "text_encoder_2", dtype=torch.float32).eval()

    def text(self, texts):
        """What the U-Net is told, the empty caption's first."""
        text, pooled = encode_text(self.one, self.two, *self.tokenizer([""] * len(texts) + texts))
        return text, dict(text_embeds=pooled, time_ids=TIME_IDS.expand(2 * len(texts), -1))

    @torch.no_grad()
    def paint(self, pictures, texts, start, generator):
        """u8 pictures [n, 128, 128, 3] with noise up to time `start` and DDIM back."""
        kept = alphas_cumprod()
        times = torch.linspace(start, 0, STEPS + 1).long().tolist()
        x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.autocast("cpu", torch.bfloat16):
            text, added = self.text(texts)
            scale = self.vae.config.scaling_factor
            z = self.vae.encode(x).latent_dist.mean.float() * scale
            z = kept[start].sqrt() * z + (1 - kept[start]).sqrt() * torch.randn(z.shape, generator=generator)
            for now, then in zip(times, times[1:]):
                both = torch.cat([z, z]).contiguous(memory_format=torch.channels_last)
                noise = self.unet(both, torch.tensor(now), text, added_cond_kwargs=added, return_dict=False)[0]
                without, told = noise.float().chunk(2)
                noise = without + GUIDANCE * (told - without)
                clean = (z - (1 - kept[now]).sqrt() * noise) / kept[now].sqrt()
                z = clean if then == 0 else kept[then].sqrt() * clean + (1 - kept[then]).sqrt() * noise
            y = self.vae.decode(z / scale).sample.float()
        return (y.clamp(-1, 1) * 127.5 + 128).clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8).numpy()


def repaint(pictures, specs, seed, each=25):
    """Pictures painted anew, `each` at a time up to one time drawn for them."""
    base, rng = Base(), np.random.default_rng(seed)
    generator, out = torch.Generator().manual_seed(seed[-1]), []
    for i in range(0, len(pictures), each):
        texts = [caption(s) for s in specs[i:i + each]]
        out.append(base.paint(pictures[i:i + each], texts, int(rng.integers(LOW, HIGH)), generator))
    return np.concatenate(out)
