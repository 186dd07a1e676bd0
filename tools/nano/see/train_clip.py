"""Trains the CLIP pair on scenes and captions. See `loop.py` for the command line.

The towers begin as the detector's (WORK/detector.pt). Beside the captions of the batch each picture is
compared with one that is wrong in one thing: the place, or something about one subject.
"""
import copy

import torch
import torch.nn.functional as F

from eyes import CAPTION, END, TOKENIZER, normalized
from loop import Run, arguments
from pictures import Shards, augmented, to_float
from queries import TABLES
from tokenizer import Tokenizer
from toys import COLOURS
from worlds import toyworld


def caption(spec, rng):
    """The caption of a scene; flat backgrounds have no place, but for white."""
    text = toyworld.caption(dict(spec, bg="white") if "flat" in spec else spec, rng)
    if "flat" in spec and spec["flat"] != [255] * 3:
        text = text.split(",")[0]
    if len(spec["subjects"]) > 2:
        names = [toyworld.noun(s) for s in spec["subjects"]]
        place = "" if "flat" in spec else ", " + toyworld.BACKGROUNDS[spec["bg"]]
        text = "a photo of a " + " and a ".join(names) + place
    u = rng.random()
    return text.replace(",", "") if u < 0.15 else text + "." if u < 0.4 else text


def spoiled(spec, rng):
    """The scene with one thing changed."""
    new, u = copy.deepcopy(spec), rng.random()
    subject = new["subjects"][rng.integers(len(new["subjects"]))]
    if u < 0.4 and "flat" not in new:
        new["bg"] = str(rng.choice([p for p in toyworld.BACKGROUNDS if p != spec["bg"]]))
    elif u < 0.6:
        subject["cls"] = str(rng.choice([c for c in TABLES["cls"] if c != subject["cls"]]))
    elif u < 0.75 and len(new["subjects"]) == 2:
        one, two = new["subjects"]  # both change colours
        one["colour"], two["colour"] = two["colour"], one["colour"]
    elif u < 0.85 and "second" in subject:
        subject["second"] = str(rng.choice([c for c in COLOURS if c != subject["second"]]))
    else:
        subject["colour"] = str(rng.choice([c for c in COLOURS if c != subject["colour"]]))
    return new


def from_detector(work):
    """A function that sets the towers to the detector's."""
    def prepare(model):
        saved = torch.load(f"{work}/detector.pt")["parts"]
        own = model.state_dict()
        for name, value in saved.items():
            name = name.removeprefix("model.").removeprefix("owlv2.").replace("pre_layernorm", "pre_layrnorm")
            if name.endswith("text_model.embeddings.position_embedding.weight"):
                own[name][:len(value)] = value
            elif name in own and own[name].shape == value.shape and "logit_scale" not in name:
                own[name].copy_(value)
    return prepare


def text_ids(tokenizer, texts):
    """Ids up to the longest text."""
    ids = tokenizer(texts)[0][:, :CAPTION]
    return ids[:, :int((ids != END).sum(1).max()) + 1]


def main():
    """Trains."""
    args = arguments(steps=800, batch=64, lr=2e-3)
    run = Run("clip", args, prepare=from_detector(args.work))
    data, tokenizer = Shards(args.work, "scenes"), Tokenizer(str(TOKENIZER))
    aim = torch.arange(args.batch)

    def loss_of():
        rows = run.rng.integers(0, len(data), args.batch)
        specs = [data.specs[i] for i in rows]
        texts = [caption(s, run.rng) for s in specs]
        texts += [caption(spoiled(s, run.rng), run.rng) for s in specs]
        same = torch.tensor([[a == b for b in texts] for a in texts[:args.batch]])
        same[aim, aim] = False
        x = augmented(to_float(data.take(rows, run.rng)))
        with torch.autocast("cpu", torch.bfloat16):
            picture = run.model.visual_projection(
                run.model.vision_model(pixel_values=normalized("clip", x)).pooler_output)
            words = run.model.text_projection(
                run.model.text_model(input_ids=text_ids(tokenizer, texts)).pooler_output)
        picture, words = F.normalize(picture.float(), dim=-1), F.normalize(words.float(), dim=-1)
        logits = run.model.logit_scale.exp().clamp(max=60) * picture @ words.T
        logits = logits.masked_fill(same, -1e4)  # an equal caption is no error
        back = logits[:, :args.batch].T
        return {"words": F.cross_entropy(logits, aim) / 2, "pictures": F.cross_entropy(back, aim) / 2}

    run.train(loss_of)


if __name__ == "__main__":
    main()
