"""Scenes for the models that look at pictures: what the base's generator lacks, and the subjects held out.

One identity is a class, colours, a pattern and accessories. Which identities training never sees is a
function of its class, body colour, pattern and second colour alone (`held_out`): an eighth of them by a
hash, and those of `toyworld.HELDOUT`. Everything that training renders goes through `checked`.
"""
import hashlib
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent))

import toyworld  # noqa: E402
from places import PLACES, SIZE, View  # noqa: E402
from render import draw_toy, shadow  # noqa: E402
from toys import CLASSES, COLOURS, TURN  # noqa: E402

#: Attributes that two identities can mix up; `pattern` takes `second` with it.
ATTRIBUTES = ("colour", "pattern", "head", "limb", "acc")
PUBLISHED = {(s["look"]["cls"], s["look"]["colour"], s["look"]["pattern"], s["look"].get("second"))
             for pair in toyworld.HELDOUT.values() for s in pair}


def key(subject):
    """What decides whether a subject is held out."""
    return subject["cls"], subject["colour"], subject["pattern"], subject.get("second")


def held_out(subject):
    """Whether training never sees this subject, whatever its head, limbs and accessories."""
    if key(subject) in PUBLISHED:
        return True
    return hashlib.sha256(repr(key(subject)).encode()).digest()[0] < 32


def checked(subjects):
    """The same subjects; refuses those that training must not see."""
    for subject in subjects:
        if held_out(subject):
            raise ValueError(f"{key(subject)} is held out")
    return subjects


def random_subject(rng, unseen=False, cls=None):
    """A subject, with limbs of another colour too; a held-out one or one that is not."""
    colours = list(COLOURS)
    while True:
        subject = toyworld.random_subject(rng)
        others = [c for c in colours if c != subject["colour"]]
        limbed = any(part[3] == "limb" for part in CLASSES[subject["cls"]][0])
        if limbed and rng.random() < 0.3:
            subject["limb"] = str(rng.choice(others))
        if not subject.get("head") and rng.random() < 0.15:
            if any(part[3] == "head" for part in CLASSES[subject["cls"]][0]):
                subject["head"] = str(rng.choice(others))
        if held_out(subject) == unseen and cls in (None, subject["cls"]):
            return subject


def wearable(subject):
    """The accessories that this class can wear."""
    anchors = CLASSES[subject["cls"]][1]
    return [kind for kind, anchor in toyworld.ACCESSORIES.items() if anchor in anchors]


def has(subject, role):
    """Whether the class has parts of this role."""
    return any(part[3] == role for part in CLASSES[subject["cls"]][0])


def take(subject, other, attributes):
    """`subject` with these attributes of `other`, as far as its class has a place for them."""
    new = dict(subject)
    for name in attributes:
        if name == "pattern":
            new["pattern"] = other["pattern"]
            new.pop("second", None)
            if "second" in other:
                new["second"] = other["second"]
        elif name == "colour":
            new["colour"] = other["colour"]
        elif name == "acc":
            new["acc"] = [(k, c) for k, c in other.get("acc", []) if k in wearable(new)]
        elif has(new, name):
            # the head and limbs have the body's colour where nothing else is said
            new[name] = other.get(name) or (other["colour"] if "colour" in attributes else None)
    if new.get("second") == new["colour"]:
        new["second"] = subject["colour"]
    return {k: v for k, v in new.items() if v}


def mixed(a, b, rng, whole):
    """Both subjects mixed up: each keeps its body and takes colours and pattern of the other.

    `whole`: all of them (subjects of two classes); otherwise a random part, at least colour or pattern.
    """
    if whole and a["cls"] != b["cls"]:
        chosen = ATTRIBUTES[:4]
    else:
        chosen = [n for n in ATTRIBUTES if rng.random() < 0.5]
        if not {"colour", "pattern"} & set(chosen):
            chosen.append("colour" if rng.random() < 0.5 or a["pattern"] == b["pattern"] else "pattern")
        if a["cls"] == b["cls"] and {"colour", "pattern"} <= set(chosen):
            chosen.remove("pattern" if a["pattern"] != b["pattern"] or rng.random() < 0.5 else "colour")
    return take(a, b, chosen), take(b, a, chosen)


def swapped(a, b, rng):
    """Both subjects as they are but for a random part of head, limbs and accessories, which they swap."""
    chosen = [n for n in ATTRIBUTES[2:] if rng.random() < 0.6] or [str(rng.choice(ATTRIBUTES[2:]))]
    return take(a, b, chosen), take(b, a, chosen)


def look(subject):
    """The looks of a subject, to tell identities apart."""
    fields = key(subject) + (subject.get("head") or subject["colour"],
                             subject.get("limb") or subject["colour"])
    return fields + tuple(sorted(map(tuple, subject.get("acc", []))))


def free_pose(subject, rng, scale, spread):
    """Anywhere, also partly outside the picture."""
    side = TURN.get(subject["cls"], 0) * (1 if rng.random() < 0.5 else -1)
    size = float(rng.uniform(*scale))
    low = SIZE / 2 - spread
    return dict(subject, yaw=float(side + rng.uniform(-30, 30)), lean=float(rng.uniform(-6, 6)),
                pitch=float(rng.uniform(10, 24)), scale=size,
                x=float(rng.uniform(low, SIZE - low)),
                y=float(np.clip(rng.uniform(low, SIZE - low) + size, 24, SIZE + 0.4 * size)))


def random_scene(rng, draw):
    """A scene of subjects that `draw(rng, cls)` gives: as the base's, crowds, close and far, flat."""
    u = rng.random()
    if u < 0.62:
        subjects = [draw(rng, None)]
        if rng.random() < 0.62:
            subjects.append(draw(rng, subjects[0]["cls"] if rng.random() < 0.3 else None))
        spec = toyworld.random_spec(rng, subjects)
    else:
        crowd, flat = u < 0.74, u >= 0.85
        count = int(rng.integers(3, 5)) if crowd else int(rng.integers(1, 3))
        subjects = [draw(rng, None) for _ in range(count)]
        if count > 1 and rng.random() < 0.3:
            subjects[1] = draw(rng, subjects[0]["cls"])
        scale, spread = ((18, 32), 44) if crowd else ((20, 50), 34)
        spec = toyworld.random_spec(rng, subjects)
        spec["subjects"] = [free_pose(s, rng, scale, spread) for s in subjects]
        if flat:
            shade = rng.random()
            colour = [255] * 3 if shade < 0.4 else rng.integers(0, 256, 3).tolist()
            spec["flat"] = [int(c) for c in colour]
    return spec


def close_scene(rng, draw):
    """Two subjects (a quarter of the time three) side by side that touch or overlap; half of the pairs are of one class."""
    subjects = [draw(rng, None)]
    for _ in range(1 + (rng.random() < 0.25)):
        subjects.append(draw(rng, subjects[0]["cls"] if rng.random() < 0.5 else None))
    spec = toyworld.random_spec(rng, subjects)
    size = float(rng.uniform(26, 40)) if len(subjects) == 2 else float(rng.uniform(20, 30))
    step = size * rng.uniform(0.7, 1.6)
    first = SIZE / 2 + rng.uniform(-14, 14) - step * (len(subjects) - 1) / 2
    spec["subjects"] = [close_pose(s, rng, size, first + i * step) for i, s in enumerate(subjects)]
    return spec


def loose_scene(rng, draw):
    """Two subjects anywhere in a place of the base, also in the air, as Seg-Mix teaches a base to put them."""
    first = draw(rng, None)
    subjects = [first, draw(rng, first["cls"] if rng.random() < 0.5 else None)]
    spec = toyworld.random_spec(rng, subjects)
    spec["subjects"] = [free_pose(s, rng, (26, 40), 38) for s in subjects]
    return spec


def adorned(subject, rng):
    """The subject with limbs, a head and a hat of other colours, as far as its class has them; each most of the time."""
    new, others = dict(subject), [c for c in COLOURS if c != subject["colour"]]
    for role in ("limb", "head"):
        if has(new, role) and rng.random() < 0.75:
            new[role] = str(rng.choice(others))
    if "hat" in wearable(new) and rng.random() < 0.6:
        new["acc"] = [("hat", str(rng.choice(others)))]
    return new


def rich_scene(rng, draw):
    """A pair whose subjects have more colours than most: as the base places them, close, or anywhere."""
    place = (pair_scene, close_scene, loose_scene)[rng.integers(3)]
    return place(rng, lambda rng, cls: adorned(draw(rng, cls), rng))


def pair_scene(rng, draw):
    """Two subjects as the base's scenes have them, half of the pairs of one class."""
    first = draw(rng, None)
    return toyworld.random_spec(rng, [first, draw(rng, first["cls"] if rng.random() < 0.5 else None)])


def alone_scene(rng, draw):
    """One such subject, as in the photos of a personalization."""
    return toyworld.random_spec(rng, [adorned(draw(rng, None), rng)])


def close_pose(subject, rng, size, x):
    """A place in the row of a close scene: up to a sixth larger or smaller than the others."""
    side = TURN.get(subject["cls"], 0) * (1 if rng.random() < 0.5 else -1)
    size = size * float(rng.uniform(0.85, 1.17))
    return dict(subject, yaw=float(side + rng.uniform(-26, 26)), lean=float(rng.uniform(-5, 5)),
                pitch=float(rng.uniform(12, 22)), scale=size, x=float(x + rng.uniform(-3, 3)),
                y=float(rng.uniform(62, 84) + size))


def render(spec):
    """As the base's `render`, with flat backgrounds: picture, visible masks, visible parts of 1."""
    subjects = spec["subjects"]
    if "flat" in spec:
        picture = np.broadcast_to(np.array(spec["flat"], np.float32), (SIZE, SIZE, 3))
    else:
        picture = PLACES[spec["bg"]][1](View(spec["hz"], np.random.default_rng(spec["seed"])))
    order = sorted(range(len(subjects)), key=lambda i: subjects[i]["y"])
    if "flat" not in spec:
        for i in order:
            strength = 0.22 if spec["bg"] == "white" else 0.5
            picture = picture * (1 - strength * shadow(subjects[i]))[..., None]
    masks, whole = [None] * len(subjects), [1] * len(subjects)
    for n, i in enumerate(order):
        colour, cover = draw_toy(subjects[i])
        picture = colour + picture * (1 - cover[..., None])
        for j in order[:n]:
            masks[j] = masks[j] & (cover < 0.5)
        masks[i] = cover >= 0.5
        whole[i] = max(int(masks[i].sum()), 1)
    seen = [float(m.sum() / w) for m, w in zip(masks, whole)]
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8), masks, seen


def box_of(mask):
    """x0, y0, x1, y1 of a mask in pixels; the last row and column are inside."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
