"""Trains the CLIP pair on scenes and captions. See `loop.py` for the command line.

The towers begin as the detector's (WORK/detector.pt). Beside the captions of the batch each picture is
compared with one that is wrong in one thing: the place, or something about one subject.

With --start FOLDER --painted SHARE --classes SHARE it goes on from exported weights, with that share of close and loose
scenes as the base paints them (`data.py`), and of captions that name the classes alone, wrong in the place.
"""
import copy

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPModel

from eyes import CAPTION, END, TOKENIZER, normalized
from loop import Run, arguments, exported
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


def pair(spec, rng, classes):
    """A caption, and one that is wrong; with the probability `classes` both name the classes alone."""
    if "flat" in spec or rng.random() >= classes:
        return caption(spec, rng), caption(spoiled(spec, rng), rng)
    names = "a photo of a " + " and a ".join(s["cls"] for s in spec["subjects"])
    other = str(rng.choice([p for p in toyworld.BACKGROUNDS if p != spec["bg"]]))
    return tuple(f"{names}, {toyworld.BACKGROUNDS[p]}" for p in (spec["bg"], other))


class Painted:
    """The scenes of one kind that the base has painted."""

    def __init__(self, work, kind):
        self.shards = Shards(work, kind)
        self.rows = np.flatnonzero(self.shards.soft >= 0)

    def batch(self, rng, n):
        """Pictures and specifications."""
        rows = rng.choice(self.rows, n)
        return self.shards.softened[self.shards.soft[rows]], [self.shards.specs[i] for i in rows]


class Rendered:
    """All scenes of one kind."""

    def __init__(self, work, kind):
        self.shards = Shards(work, kind)

    def batch(self, rng, n):
        """Pictures and specifications."""
        rows = rng.integers(0, len(self.shards), n)
        return self.shards.take(rows, rng), [self.shards.specs[i] for i in rows]


def main():
    """Trains."""
    args = arguments(steps=800, batch=64, lr=2e-3, **{
        "--painted": dict(type=float, default=0.0, help="share of scenes as the base paints them"),
        "--classes": dict(type=float, default=0.0, help="share of captions that name classes alone"),
        "--start": dict(help="begin with the weights of this exported folder")})
    prepare = exported(CLIPModel, args.start) or from_detector(args.work)
    run = Run("clip", args, prepare=prepare, stage="_painted" if args.start else "")
    half = int(round(args.batch * args.painted / 2))
    data = [(Rendered(args.work, "scenes"), args.batch - 2 * half)]
    data += [(Painted(args.work, kind), half) for kind in ("close", "loose") if half]
    tokenizer, aim = Tokenizer(str(TOKENIZER)), torch.arange(args.batch)

    def loss_of():
        drawn = [scenes.batch(run.rng, n) for scenes, n in data]
        specs = [s for _, own in drawn for s in own]
        texts = sum(zip(*(pair(s, run.rng, args.classes) for s in specs)), ())
        same = torch.tensor([[a == b for b in texts] for a in texts[:args.batch]])
        same[aim, aim] = False
        x = augmented(to_float(np.concatenate([pictures for pictures, _ in drawn])))
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
