"""The world nano knows: random scenes, their captions, its words, and the subjects held out of it.

    python toyworld.py PICTURES FIRST STEP LAST   # renders shards FIRST, FIRST+STEP, ... < LAST

A shard is NNN.npy (u8 [1000, 128, 128, 3]) and NNN.txt (a caption a line); scene i is seeded by i.
A scene is {subjects, bg, hz (row of the horizon), seed}.
"""
import os
import sys

import numpy as np

from places import PLACES, SIZE
from render import render
from toys import CLASSES, COLOURS, TURN

PATTERNS = ["plain", "striped", "dotted", "checkered"]
ACCESSORIES = {"hat": "hat", "scarf": "neck", "glasses": "eyes"}  # and the anchor each needs
BACKGROUNDS = {name: words for name, (words, _) in PLACES.items()}
SHARD = 1000
# Subjects that training never sees: `random_subject` draws again where the words are one of theirs,
# and no random subject has limbs of another colour than its body.
HELDOUT = {
    "bears": [
        {"token": "olis", "class": "purple and yellow dotted bear",
         "look": {"cls": "bear", "colour": "purple", "pattern": "dotted", "second": "yellow",
                  "head": "yellow", "limb": "green"}},
        {"token": "hta", "class": "red and white striped bear",
         "look": {"cls": "bear", "colour": "red", "pattern": "striped", "second": "white",
                  "head": "teal", "limb": "black", "acc": [("hat", "orange")]}},
    ],
    "robot_duck": [
        {"token": "ult", "class": "orange and blue checkered robot",
         "look": {"cls": "robot", "colour": "orange", "pattern": "checkered", "second": "blue",
                  "head": "white", "limb": "purple", "acc": [("scarf", "green")]}},
        {"token": "amg", "class": "pink and black striped duck",
         "look": {"cls": "duck", "colour": "pink", "pattern": "striped", "second": "black",
                  "head": "green", "limb": "yellow", "acc": [("hat", "red")]}},
    ],
}


def words_of(look):
    """What names a subject in words: class, colours, pattern."""
    return look["cls"], look["colour"], look["pattern"], look.get("second")


HELDOUT_WORDS = {words_of(s["look"]) for pair in HELDOUT.values() for s in pair}


def random_subject(rng):
    """A random subject that is none of those held out, whatever its limbs and hat."""
    while words_of(subject := any_subject(rng)) in HELDOUT_WORDS:
        pass
    return subject


def any_subject(rng):
    """A class, a colour, and sometimes a pattern, another head colour, an accessory."""
    classes, colours = list(CLASSES), list(COLOURS)
    cls = classes[rng.integers(len(classes))]
    colour = colours[rng.integers(len(colours))]
    others = [c for c in colours if c != colour]
    plain = rng.random() < 0.5
    subject = {"cls": cls, "colour": colour,
               "pattern": "plain" if plain else PATTERNS[1 + rng.integers(3)]}
    if not plain:
        subject["second"] = str(rng.choice(others))
    parts, anchors = CLASSES[cls]
    if rng.random() < 0.15 and any(part[3] == "head" for part in parts):
        subject["head"] = str(rng.choice(others))
    wearable = [kind for kind, anchor in ACCESSORIES.items() if anchor in anchors]
    if wearable and rng.random() < 0.15:
        subject["acc"] = [(str(rng.choice(wearable)), str(rng.choice(others)))]
    return subject


def pose(subject, rng, count, index):
    """Places subject `index` of `count` (1: the middle; 2: left, right)."""
    side = TURN.get(subject["cls"], 0) * (1 if rng.random() < 0.5 else -1)
    subject.update(yaw=float(side + rng.uniform(-22, 22)), lean=float(rng.uniform(-3, 3)),
                   pitch=float(rng.uniform(14, 20)))
    if count == 1:
        subject.update(scale=float(rng.uniform(42, 51)), x=float(rng.uniform(56, 72)),
                       y=float(rng.uniform(106, 116)))
    else:
        subject.update(scale=float(rng.uniform(30, 37)),
                       x=float((32 if index == 0 else 96) + rng.uniform(-5, 5)),
                       y=float(rng.uniform(100, 114)))
    return subject


def random_spec(rng, subjects=None, bg=None):
    """A random scene: one subject or (66 %) two; of the pairs about 18 % are of one class."""
    if subjects is None:
        subjects = [random_subject(rng) for _ in range(1 + (rng.random() < 0.66))]
        if len(subjects) == 2 and rng.random() < 0.12:
            while subjects[1]["cls"] != subjects[0]["cls"]:
                subjects[1] = random_subject(rng)
    subjects = [pose(dict(s), rng, len(subjects), i) for i, s in enumerate(subjects)]
    bg = bg or list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))]
    return {"subjects": subjects, "bg": bg, "hz": float(rng.uniform(58, 72)),
            "seed": int(rng.integers(2 ** 31))}


def noun(subject):
    """Everything about a subject in words."""
    text = f"{subject['colour']} {subject['cls']}"
    if subject["pattern"] != "plain":
        text = f"{subject['colour']} and {subject['second']} {subject['pattern']} {subject['cls']}"
    if subject.get("head"):
        text += f" with a {subject['head']} head"
    for kind, colour in subject.get("acc", []):
        text += f" wearing {'' if kind == 'glasses' else 'a '}{colour} {kind}"
    return text


def caption(spec, rng):
    """[a photo of] a NOUN [(and | next to) a NOUN][, PLACE]; attributes are sometimes left out."""
    def short(subject):
        u = rng.random()
        if u < 0.08:
            return subject["cls"]
        return f"{subject['colour']} {subject['cls']}" if u < 0.16 else noun(subject)

    subjects = spec["subjects"]
    names = [short(s) for s in subjects]
    if len(names) == 2 and subjects[0]["cls"] == subjects[1]["cls"] and rng.random() < 0.3:
        names = [subjects[0]["cls"]] * 2
    if len(names) == 2 and rng.random() < 0.1:
        names.reverse()
    text = "a " + names[0]
    if len(names) == 2:
        text += f" {'and' if rng.random() < 0.8 else 'next to'} a {names[1]}"
    if rng.random() < 0.8:
        text = "a photo of " + text
    return text if rng.random() < 0.03 else f"{text}, {BACKGROUNDS[spec['bg']]}"


def words():
    """Every word of the vocabulary; the last five have no meaning: they are for new subjects."""
    extra = ("a an photo of and next to with head wearing hat scarf glasses toy the on in simple "
             "background left right two small big sticker collage . , olis hta ult amg lun")
    known = {*extra.split(), *CLASSES, *COLOURS, *PATTERNS}
    return sorted(known.union(*(place.split() for place in BACKGROUNDS.values())))


def scene(number):
    """Training scene `number` and its caption."""
    rng = np.random.default_rng((0, number))
    spec = random_spec(rng)
    return spec, caption(spec, rng)


def write_shard(folder, number):
    """Renders one shard; the pictures are renamed into place last."""
    pictures, captions = np.empty((SHARD, SIZE, SIZE, 3), np.uint8), []
    for i in range(SHARD):
        spec, text = scene(number * SHARD + i)
        pictures[i] = render(spec)[0]
        captions.append(text + "\n")
    with open(f"{folder}/{number:03d}.txt", "w", encoding="utf-8") as file:
        file.writelines(captions)
    np.save(f"{folder}/new{number}.npy", pictures)
    os.replace(f"{folder}/new{number}.npy", f"{folder}/{number:03d}.npy")


def main():
    """Renders the shards that are not there yet."""
    folder, (first, step, last) = sys.argv[1], map(int, sys.argv[2:5])
    os.makedirs(folder, exist_ok=True)
    for number in range(first, last, step):
        if not os.path.exists(f"{folder}/{number:03d}.npy"):
            write_shard(folder, number)


if __name__ == "__main__":
    main()
