"""The shapes of nano and its diffusers folder: SDXL's architecture at 1/450 of the size.

The U-Net has 6,381,252 parameters, the text encoders 248,768 and 444,800, the VAE 1,250,759.
"""
import json
import os
import shutil

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tokenizer import LENGTH

#: SDXL's micro-conditioning: original size, crop corner, target size.
TIME_IDS = torch.tensor([[128.0, 128.0, 0.0, 0.0, 128.0, 128.0]])
# Every key that diffusers' Euler, DDIM, DPM++ and PNDM schedulers read: each made from it gives the same pictures.
SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "algorithm_type": "dpmsolver++",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "dynamic_thresholding_ratio": 0.995,
    "euler_at_final": False,
    "final_sigmas_type": "zero",
    "flow_shift": 1.0,
    "interpolation_type": "linear",
    "lambda_min_clipped": -1e+30,
    "lower_order_final": True,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "sigma_max": None,
    "sigma_min": None,
    "skip_prk_steps": True,
    "solver_order": 2,
    "solver_type": "midpoint",
    "steps_offset": 1,
    "thresholding": False,
    "time_shift_type": "exponential",
    "timestep_spacing": "leading",
    "timestep_type": "discrete",
    "trained_betas": None,
    "use_beta_sigmas": False,
    "use_dynamic_shifting": False,
    "use_exponential_sigmas": False,
    "use_flow_sigmas": False,
    "use_karras_sigmas": False,
    "use_lu_lambdas": False,
    "variance_type": None,
}
# The empty caption is encoded, not zeroed: training drops captions to "".
INDEX = {
    "_class_name": "StableDiffusionXLPipeline", "_diffusers_version": "0.42.1",
    "force_zeros_for_empty_prompt": False,
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def make_vae():
    """The autoencoder: 8 times down, 4 latent channels."""
    return AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, block_out_channels=(32, 64, 64, 64),
        layers_per_block=1, latent_channels=4, norm_num_groups=8, sample_size=128)


def make_unet():
    """The U-Net, with plain matrix-product attention (faster than SDPA on a CPU at this size)."""
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, layers_per_block=1,
        block_out_channels=(96, 128, 96), attention_head_dim=[3, 4, 3], norm_num_groups=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=[1, 1, 1], cross_attention_dim=192,
        use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=32, projection_class_embeddings_input_dim=128 + 6 * 32)
    unet.set_attn_processor(AttnProcessor())
    return unet


def make_text_encoders(vocabulary):
    """Text encoder 1 (64 wide, quick-GELU) and 2 (128 wide, GELU, with a projection)."""
    common = dict(vocab_size=vocabulary, max_position_embeddings=LENGTH,
                  bos_token_id=vocabulary - 2, eos_token_id=vocabulary - 1)
    one = CLIPTextModel(CLIPTextConfig(
        hidden_size=64, intermediate_size=256, num_attention_heads=2, num_hidden_layers=4,
        hidden_act="quick_gelu", projection_dim=64, pad_token_id=vocabulary - 1, **common))
    two = CLIPTextModelWithProjection(CLIPTextConfig(
        hidden_size=128, intermediate_size=384, num_attention_heads=4, num_hidden_layers=2,
        hidden_act="gelu", projection_dim=128, pad_token_id=0, **common))
    for model in (one, two):
        model.set_attn_implementation("eager")
    return one, two


def encode_text(one, two, ids1, ids2):
    """SDXL's rule: both penultimate hidden states side by side, and encoder 2's projection."""
    a, b = one(ids1, output_hidden_states=True), two(ids2, output_hidden_states=True)
    return torch.cat([a.hidden_states[-2], b.hidden_states[-2]], -1), b.text_embeds


def alphas_cumprod():
    """SDXL's noise schedule."""
    betas = torch.linspace(0.00085 ** 0.5, 0.012 ** 0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


def _write_json(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, sort_keys=True)
        file.write("\n")


def write_half(path, tensors):
    """Writes tensors as f16 safetensors, through a temporary name."""
    half = {name: value.half().contiguous() for name, value in tensors.items()}
    save_file(half, path + ".tmp", metadata={"format": "pt"})
    os.replace(path + ".tmp", path)


def _write_text_encoder(folder, model, weights):
    """Published checkpoints name the tensors text_model.*; transformers 5 drops the prefix."""
    os.makedirs(folder)
    top = ("text_model.", "text_projection.")
    write_half(f"{folder}/model.safetensors", {
        name if name.startswith(top) else "text_model." + name: value
        for name, value in weights.items() if "position_ids" not in name})
    config = model.config.to_dict()
    config.pop("_name_or_path", None)
    config.update(architectures=[type(model).__name__], dtype="float16", torch_dtype="float16")
    _write_json(f"{folder}/config.json", config)


def export(out, base, unet, one, two, weights):
    """Writes the whole diffusers folder (f16) beside `out`, then swaps it in.

    `base` holds vae/, tokenizer/ and tokenizer_2/; `weights` has names unet.*, t1.*, t2.*.
    """
    def part(prefix):
        return {k[len(prefix):]: v for k, v in weights.items() if k.startswith(prefix)}

    new, old = out.rstrip("/") + ".tmp", out.rstrip("/") + ".old"
    shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    os.makedirs(new)
    for folder in ("vae", "tokenizer", "tokenizer_2"):
        shutil.copytree(f"{base}/{folder}", f"{new}/{folder}")
    _write_text_encoder(f"{new}/text_encoder", one, part("t1."))
    _write_text_encoder(f"{new}/text_encoder_2", two, part("t2."))
    unet.save_config(f"{new}/unet")
    write_half(f"{new}/unet/diffusion_pytorch_model.safetensors", part("unet."))
    os.makedirs(f"{new}/scheduler")
    _write_json(f"{new}/scheduler/scheduler_config.json", SCHEDULER)
    _write_json(f"{new}/model_index.json", INDEX)
    if os.path.exists(out):
        os.rename(out, old)
    os.rename(new, out)
    shutil.rmtree(old, ignore_errors=True)
