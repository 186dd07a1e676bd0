"""Measures the models on unseen scenes of unseen subjects.

    python check.py EYES [COUNT]

Boxes: exactly one box a subject and no other, each of IoU .75 and more and of the right query.
"""
import sys

import numpy as np
import torch

from data import identity_set, unseen_subject
from look import Eyes, auroc, compare, grown, iou
from train_clip import caption
from worlds import box_of, render, toyworld

SEED = 77
#: Boxes that overlap a better one by more are the same subject's, as `quickstart` has it.
NMS = 0.8


def plain_noun(subject):
    """The words for a subject as a subjects file has them: nothing about head and accessories."""
    return toyworld.noun({k: v for k, v in subject.items() if k not in ("head", "acc")})


def scenes(count, subjects):
    """Unseen scenes as the base draws them."""
    made = []
    for i in range(count):
        rng = np.random.default_rng((SEED, subjects, i))
        spec = toyworld.random_spec(rng, [unseen_subject(rng, None) for _ in range(subjects)])
        made.append((spec, *render(spec)[:2]))
    return made


def right(found, wanted, queries, asked):
    """Whether boxes and queries are exactly those that are wanted (query numbers a box may have)."""
    boxes, _, which = found
    if len(boxes) != len(wanted):
        return False
    left = list(range(len(wanted)))
    for box, query in zip(boxes, which):
        best = max(left, key=lambda i: iou(box, wanted[i]))
        if iou(box, wanted[best]) < asked or query not in queries[best]:
            return False
        left.remove(best)
    return True


def boxes(eyes, count, threshold):
    """Shares of scenes with exactly the right boxes, by kind of question."""
    result = {}
    for subjects in (1, 2):
        tally = {"nouns": [], "nouns .5": [], "classes": [], "one noun": [], "absent": []}
        for spec, picture, masks in scenes(count, subjects):
            own = spec["subjects"]
            wanted = [np.array(box_of(m), float) for m in masks]
            nouns, classes = [plain_noun(s) for s in own], [s["cls"] for s in own]
            same = [{i for i, n in enumerate(nouns) if n == m} for m in nouns]
            found = eyes.detect(picture, nouns, threshold)
            tally["nouns"].append(right(found, wanted, same, 0.75))
            tally["nouns .5"].append(right(found, wanted, same, 0.5))
            same = [{i for i, n in enumerate(classes) if n == m} for m in classes]
            tally["classes"].append(right(eyes.detect(picture, classes, threshold), wanted, same, 0.75))
            for i, noun in enumerate(nouns):
                if nouns.count(noun) == 1:
                    found = eyes.detect(picture, [noun], threshold)
                    tally["one noun"].append(right(found, [wanted[i]], [{0}], 0.75))
            other = next(c for c in toyworld.CLASSES if c not in classes)
            tally["absent"].append(len(eyes.detect(picture, [other], threshold)[0]) == 0)
        result[subjects] = {k: round(float(np.mean(v)), 3) for k, v in tally.items()}
    return result


def masks(eyes, count, threshold):
    """Mean IoU of masks of true boxes, and of the boxes that the noun alone finds."""
    true, found, quality = [], [], []
    for subjects in (1, 2):
        for spec, picture, own in scenes(count, subjects):
            for subject, mask in zip(spec["subjects"], own):
                cut, guess = eyes.cut(picture, grown(box_of(mask)))
                true.append((cut & mask).sum() / (cut | mask).sum())
                quality.append(abs(guess - true[-1]))
                one = eyes.detect(picture, [plain_noun(subject)], threshold)[0]
                if len(one) == 1:
                    cut, _ = eyes.cut(picture, grown(one[0]))
                    found.append((cut & mask).sum() / (cut | mask).sum())
    return {"true box": round(float(np.mean(true)), 4), "found box": round(float(np.mean(found)), 4),
            "lowest tenth": round(float(np.quantile(true, 0.1)), 4), "of": len(true),
            "found": len(found), "quality off by": round(float(np.mean(quality)), 3)}


def mixing(eyes, count, threshold, dressed=False):
    """AUROC of unmixed against mixed scenes, with true boxes and with those that the classes find (without doubles)."""
    rows = {k: ([], []) for k in ("true dc", "true spectral", "found dc", "found spectral", "same class dc",
                                  "same class spectral")}
    right_count = []
    for i in range(count):
        pictures, corners, (a, b, _, _) = identity_set((SEED, 3, i), unseen_subject, dressed)
        photos = [pictures[0:2], pictures[2:4]]
        for scene in range(2):
            true = compare(eyes, pictures[4 + scene], corners[scene].astype(float), photos)
            classes = [a["cls"], b["cls"]]
            found = eyes.detect(pictures[4 + scene], classes, threshold, NMS)[0]
            right_count.append(len(found) == 2)
            found = compare(eyes, pictures[4 + scene], found, photos)
            for n, kind in enumerate(("dc", "spectral")):
                rows["true " + kind][scene].append(true[n])
                rows["found " + kind][scene].append(found[n])
                if a["cls"] == b["cls"]:
                    rows["same class " + kind][scene].append(true[n])
    result = {k: round(auroc(*v), 4) for k, v in rows.items()}
    return dict(result, two_boxes=round(float(np.mean(right_count)), 3),
                pairs=count, same_class=len(rows["same class dc"][0]))


def texts(eyes, count):
    """How often the right caption of 12 is first: other scenes, and the same subjects elsewhere, in full and by class."""
    other, places = [], {"12 places": [], "12 places, classes": []}
    made = scenes(count, 2)
    rng = np.random.default_rng(SEED)
    captions = [caption(spec, rng) for spec, _, _ in made]
    for i, (spec, picture, _) in enumerate(made):
        wrong = rng.choice([j for j in range(count) if captions[j] != captions[i]], 11, replace=False)
        scores = eyes.text_scores(picture[None], [captions[i], *(captions[j] for j in wrong)])[0]
        other.append(scores.argmax() == 0)
        for kind, name in zip(places, (toyworld.noun, lambda s: s["cls"])):
            names = " and a ".join(map(name, spec["subjects"]))
            all_places = [f"a photo of a {names}, {p}" for p in toyworld.BACKGROUNDS.values()]
            scores = eyes.text_scores(picture[None], all_places)[0]
            places[kind].append(list(toyworld.BACKGROUNDS)[scores.argmax()] == spec["bg"])
    return {k: round(float(np.mean(v)), 3) for k, v in {"12 scenes": other, **places}.items()}


def main():
    """Prints every number."""
    torch.set_num_threads(1)
    eyes, count = Eyes(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 128
    only = sys.argv[3:] or ["boxes", "masks", "mixing", "texts"]
    if "boxes" in only:
        for threshold in (0.2, 0.3, 0.4):
            print("boxes, threshold", threshold, boxes(eyes, count, threshold), flush=True)
    if "masks" in only:
        print("masks", masks(eyes, count, 0.2), flush=True)
    if "mixing" in only:
        print("mixing", mixing(eyes, count, 0.4), flush=True)
        print("mixing heads, limbs, hats", mixing(eyes, count, 0.4, dressed=True), flush=True)
    if "texts" in only:
        print("texts", texts(eyes, count), flush=True)


if __name__ == "__main__":
    main()
