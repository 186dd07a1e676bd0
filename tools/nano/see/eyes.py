"""The shapes of the four models, and their folders in the published formats (f16 safetensors)."""
import copy
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model, Owlv2Config,
                          Owlv2ForObjectDetection, SamConfig, SamModel)

TOKENIZER = Path(__file__).resolve().parents[3] / "src/assets/nano/tokenizer"
SIDE, VOCABULARY = 128, 721
START, END = VOCABULARY - 2, VOCABULARY - 1
#: Longest query of the detector and longest caption of CLIP, in tokens with start and end.
QUERY, CAPTION = 24, 40
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STATISTICS = {"detector": (CLIP_MEAN, CLIP_STD), "clip": (CLIP_MEAN, CLIP_STD),
              "segmenter": (IMAGENET_MEAN, IMAGENET_STD), "dino": (IMAGENET_MEAN, IMAGENET_STD)}


def vision(**more):
    """The vision transformer that detector, CLIP and DINO share: 64 patches of 16 pixels."""
    return dict(hidden_size=128, num_hidden_layers=6, num_attention_heads=4, image_size=SIDE,
                patch_size=16, **more)


def text(length, layers):
    """A text tower over nano's vocabulary."""
    return dict(vocab_size=VOCABULARY, hidden_size=96, intermediate_size=384, num_attention_heads=3,
                num_hidden_layers=layers, max_position_embeddings=length, hidden_act="quick_gelu",
                bos_token_id=START, eos_token_id=END)


@torch.no_grad()
def spread(model):
    """Random weights of the deviation 1 / sqrt(inputs): transformers' own are for far larger models."""
    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
            across = isinstance(module, torch.nn.ConvTranspose2d)
            inputs = module.weight.shape[0] if across else module.weight[0].numel()
            last = name.endswith(("dense2", "fc2", "out_proj", "lin2", "attn.proj", "output.dense"))
            torch.nn.init.normal_(module.weight, std=(0.3 if last else 1) * inputs ** -0.5)
            if module.bias is not None:
                module.bias.zero_()
    for name, value in model.named_parameters():
        if name.endswith(("pos_embed", "rel_pos_h", "rel_pos_w")):
            torch.nn.init.normal_(value, std=0.02)
        if name.endswith("positional_embedding"):
            torch.nn.init.normal_(value)
    return model


def make(name):
    """A fresh model."""
    return first_guess(spread(shape(name)))


@torch.no_grad()
def first_guess(model):
    """A detector begins with the opinion that no query is anywhere."""
    if isinstance(model, Owlv2ForObjectDetection):
        model.class_head.logit_scale.weight.zero_()
        model.class_head.logit_scale.bias.fill_(9)
        model.class_head.logit_shift.weight.zero_()
        model.class_head.logit_shift.bias.fill_(-0.5)
    return model


def shape(name):
    """The architecture of a model."""
    if name == "detector":
        config = Owlv2Config(
            vision_config=vision(intermediate_size=512, hidden_act="quick_gelu"),
            text_config=dict(text(QUERY, 2), pad_token_id=0), projection_dim=96)
        return Owlv2ForObjectDetection(config)
    if name == "clip":
        return CLIPModel(CLIPConfig(
            vision_config=vision(intermediate_size=512, hidden_act="quick_gelu", projection_dim=96),
            text_config=dict(text(CAPTION, 3), pad_token_id=END, projection_dim=96),
            projection_dim=96))
    if name == "dino":
        return Dinov2Model(Dinov2Config(**vision(mlp_ratio=4, layerscale_value=1.0)))
    width = 128
    config = SamConfig(
        vision_config=dict(hidden_size=96, num_hidden_layers=4, num_attention_heads=3, mlp_dim=384,
                           image_size=SIDE, patch_size=8, output_channels=width, window_size=8,
                           global_attn_indexes=[3], num_pos_feats=width // 2),
        prompt_encoder_config=dict(hidden_size=width, image_size=SIDE, patch_size=8,
                                   image_embedding_size=SIDE // 8, mask_input_channels=16),
        mask_decoder_config=dict(hidden_size=width, mlp_dim=256, num_attention_heads=4,
                                 num_hidden_layers=2, iou_head_hidden_dim=128))
    return SamModel(config)


def picture_processor(name):
    """The preprocessor's configuration, as the published models have it."""
    mean, std = STATISTICS[name]
    common = dict(do_normalize=True, do_rescale=True, do_resize=True, image_mean=list(mean),
                  image_std=list(std), rescale_factor=1 / 255)
    if name == "detector":
        return dict(common, image_processor_type="Owlv2ImageProcessor", do_pad=True, resample=2,
                    size={"height": SIDE, "width": SIDE})
    if name == "segmenter":
        return dict(common, image_processor_type="SamImageProcessor", do_pad=True, resample=2,
                    do_convert_rgb=True, size={"longest_edge": SIDE},
                    pad_size={"height": SIDE, "width": SIDE},
                    mask_size={"longest_edge": SIDE // 2},
                    mask_pad_size={"height": SIDE // 2, "width": SIDE // 2})
    kind = {"clip": "CLIPImageProcessor", "dino": "BitImageProcessor"}[name]
    return dict(common, image_processor_type=kind, do_convert_rgb=True, resample=3,
                size={"shortest_edge": SIDE}, do_center_crop=True,
                crop_size={"height": SIDE, "width": SIDE})


def write_json(path, value):
    """Indented, sorted."""
    Path(path).write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_tokenizer(folder, length, pad):
    """nano's tokenizer with another length and padding."""
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(TOKENIZER / name, folder)
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        value = json.loads((TOKENIZER / name).read_text(encoding="utf-8"))
        value["pad_token"] = pad
        if "model_max_length" in value:
            value["model_max_length"] = length
        write_json(Path(folder) / name, value)


def export(name, model, out):
    """Writes the folder of a model: weights, configuration, preprocessor, tokenizer."""
    os.makedirs(out, exist_ok=True)
    model = copy.deepcopy(model).half()
    model.config._name_or_path = ""
    model.save_pretrained(out)
    write_json(f"{out}/preprocessor_config.json", picture_processor(name))
    if name == "detector":
        write_tokenizer(out, QUERY, "!")
    if name == "clip":
        write_tokenizer(out, CAPTION, "<|endoftext|>")


def normalized(name, pictures):
    """[n, 3, h, w] of 0 to 1 as the model takes it."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in STATISTICS[name])
    return (pictures - mean) / std


if __name__ == "__main__":
    import sys
    for part in ("detector", "segmenter", "dino", "clip"):
        fresh = make(part)
        print(part, sum(p.numel() for p in fresh.parameters()))
        if len(sys.argv) > 1:
            export(part, fresh, f"{sys.argv[1]}/{part}")
