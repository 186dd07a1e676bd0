"""Does a decoupled subject follow the scene? Five photos of one toy on one background, on nano.

    python tools/nano/decoupled_study.py SELVEDGE WORK OUT.md [robot]

Renders a held-out duck five times on the same background, learns it by DreamBooth, DisenBooth, dual-level decoupling and
its ablations (same steps, rank and rates), paints it in 12 scenes x 4 seeds through `evaluate dreambench` (DINO, CLIP-T,
diversity), and asks the embedded CLIP which of the 12 scenes each picture shows. Two harder questions: 24 pictures of a
prompt that names no place (is it the photos' own?), and the new scenes again at a guidance of 1.5. With `robot` the
subject is a robot on a beach, the training's seed another, and the ablations are left out. Needs NumPy and Pillow.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import toyworld
from subjects import write_one_place

#: The subject, where it was photographed, how many rows of the table, the training's seed.
STORIES = {"duck": (toyworld.HELDOUT["robot_duck"][1], "grass", None, 42), "robot": (toyworld.HELDOUT["robot_duck"][0], "beach", 4, 43)}
SETTINGS = ["train.resolution=128", "train.steps=900", "train.batch=2", "train.accumulate=1", "train.learning_rate=1.5e-3",
            "train.schedule=cosine", "train.warmup_steps=10", "train.rank=32", "train.sample_every=0", "train.save_every=0",
            'train.targets=["to_q","to_k","to_v","to_out.0","ff.net.0.proj","ff.net.2","proj_in","proj_out"]']
ROWS = {
    "base, class alone": ("base", []),
    "DreamBooth": ("dreambooth", []),
    "DisenBooth": ("disenbooth", []),
    "decoupled": ("decoupled", []),
    "decoupled, weights x 10": ("decoupled", ["decoupling.text_implicit=0.01", "decoupling.implicit_explicit=0.01",
                                              "decoupling.text_background=0.01"]),
    "decoupled, drop 0": ("decoupled", ["decoupling.drop=0.0"]),
    "decoupled, drop 0.3": ("decoupled", ["decoupling.drop=0.3"]),
    "decoupled, drop 1 (the masked loss alone)": ("decoupled", ["decoupling.drop=1.0"]),
    "decoupled, drop_loss whole": ("decoupled", ["decoupling.drop_loss=whole"]),
    "decoupled, weak loss 0.01": ("decoupled", ["decoupling.weak=0.01"]),
    "without L2": ("decoupled", ["decoupling.text_implicit=0.0"]),
    "without L3": ("decoupled", ["decoupling.implicit_explicit=0.0"]),
    "without L4": ("decoupled", ["decoupling.text_background=0.0"]),
    "without fusion": ("decoupled", ["decoupling.fusion=false"]),
    "text encoders frozen": ("decoupled", ["decoupling.train_text=none"]),
    "identifier's embedding learned": ("decoupled", ["decoupling.train_text=embedding"]),
}


def run(*words):
    """Runs the program; its output."""
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, words))}\n{done.stderr}")
    return done.stdout


def painted(program, folder, lora, prompt, guidance, count):
    """Pictures of a prompt, made once."""
    if not folder.exists():
        run(program, "generate", "--base", "nano", *lora, "--prompt", prompt, "--count", count, "--batch", 8, "--steps", 20,
            "--guidance", guidance, "--seed", 100, "--out", folder, "--device", "cpu")
    return sorted(folder.glob("*.png"))


def sheet(work, path):
    """DreamBooth above dual-level decoupling: without a place in the prompt, then the new scenes at a guidance of 1.5."""
    tile, rows = 64, []
    for kind, columns in (("unnamed", 12), ("weak", 22)):
        for method in ("dreambooth", "decoupled"):
            shown = [Image.open(f).convert("RGB").resize((tile, tile)) for f in sorted((work / method / kind).glob("*.png"))]
            row = Image.new("RGB", (columns * tile, -(-len(shown) // columns) * tile), "white")
            for i, picture in enumerate(shown):
                row.paste(picture, (i % columns * tile, i // columns * tile))
            rows.append(row)
    whole = Image.new("RGB", (max(r.width for r in rows), sum(r.height + 8 for r in rows)), "white")
    y = 0
    for row in rows:
        whole.paste(row, (0, y))
        y += row.height + 8
    whole.save(path)


def main():
    """Makes every row and writes the table."""
    program, work, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    story = (sys.argv[4:] or ["duck"])[0]
    subject, home, rows, seed = STORIES[story]
    data, nano = work / "data/dataset", work / "nano"
    if not data.exists():
        write_one_place(work / "one_place", subject, home)
        shutil.copytree(work / "one_place/a", data / story)
        word, places = subject["class"], list(toyworld.BACKGROUNDS.values())
        assert len(places) == 12
        listed = "".join(f"'a photo of a {{0}} {{1}}, {p}'.format(unique_token, class_token),\n" for p in places)
        text = f"Classes\n\nsubject_name,class\n{story},{word}\n\n"
        for title in ("Object Prompts", "Live Subject Prompts"):
            text += f"{title}\n\nprompt_list = [\n{listed}]\n\n"
        (data / "prompts_and_classes.txt").write_text(text)
    if not nano.exists():
        run(program, "export", "nano", nano)
    subjects = work / "subjects.toml"
    subjects.write_text(f'[[subject]]\nid = "{story}"\ntoken = "lun"\nclass = "{subject["class"]}"\nimages = "{data / story}"\n')
    places = list(toyworld.BACKGROUNDS)
    scenes = [f"a photo of a {subject['class']}, {p}" for p in toyworld.BACKGROUNDS.values()]
    head = ["method", "scene right (new places)", "scene is the photos' own", "identity (detected)", "DINO", "CLIP-T", "diversity",
            "no place named: the photos' own, different places", "guidance 1.5: scene right, the photos' own"]
    lines = [head, ["---"] * len(head)]
    for title, (method, sets) in list(ROWS.items())[:rows]:
        folder = work / re.sub("[^a-z0-9.]+", "_", title.lower())
        words = [w for s in [*SETTINGS, f"train.seed={seed}", *sets] for w in ("--set", s)] if method != "base" else []
        run(program, "evaluate", "dreambench", "--data", work / "data", "--base", "nano", "--method", method, "--token", "lun",
            "--dino", nano / "eyes/dino", "--clip", nano / "eyes/clip", "--steps", 20, "--guidance", 4, "--out", folder, "--device",
            "cpu", *words)
        shown = folder / "all"
        if not shown.exists():
            shown.mkdir()
            for path in sorted((folder / "pictures").rglob("*.png")):
                shutil.copy(path, shown / f"{path.parent.name}_{path.name}")
        score = lambda images, *more: json.loads(run(program, "score", "--images", images, "--subjects", subjects, "--out",
                                                     work / "scores", "--device", "cpu", "--json", *more))

        def judge(images):
            """The scene that every picture shows, and the number that its name begins with."""
            judged = [score(images, "--clip", nano / "eyes/clip", "--prompt", s)["text"]["images"] for s in scenes]
            best = np.argmax([[i["clip_score"] for i in one] for one in judged], 0)
            return best, np.array([int(re.match("[0-9]+", i["name"])[0]) for i in judged[0]])

        own, word = places.index(home), subject["class"]
        best, wanted = judge(shown)
        new = wanted != own
        adapter = [p for p in sorted(folder.glob("runs/*/*/adapter.safetensors"))]
        lora = ["--lora", adapter[0]] if adapter else []
        name = f"a photo of a lun {word}" if adapter else f"a photo of a {word}"
        painted(program, folder / "unnamed", lora, name, 4, 24)
        unnamed, _ = judge(folder / "unnamed")
        weak = folder / "weak"
        weak.mkdir(exist_ok=True)
        for k, place in enumerate(toyworld.BACKGROUNDS.values()):
            for path in painted(program, folder / f"weak_{k}", lora, f"{name}, {place}", 1.5, 4) if k != own else []:
                shutil.copy(path, weak / f"{k:02}_{path.name}")
        followed, asked = judge(weak)
        found = score(shown, "--detector", nano / "eyes/detector", "--query", word.split()[-1], "--threshold", "0.2",
                      "--nms", "0.8", "--dinov2", nano / "eyes/dino")
        likeness = [i["similarity"][0][0] for i in found["images"] if i["boxes"] == 1]
        table = json.loads((folder / "table.json").read_text())
        means = table["methods"][0]["all"]
        shown_means = ["{mean:.3f}".format(**means[k]) for k in ("dino", "clip_t", "diversity")]
        lines.append([title, f"{int((best == wanted)[new].sum())} of {int(new.sum())}",
                      f"{int((best == own)[new].sum())}",
                      f"{np.mean(likeness):.3f} ({len(likeness)} found)", *shown_means,
                      f"{int((unnamed == own).sum())} of 24, {len(set(unnamed))}",
                      f"{int((followed == asked).sum())} of {len(asked)}, {int((followed == own).sum())}"])
        print("| " + " | ".join(lines[-1]) + " |", flush=True)
    sheet(work, out.with_suffix(".png"))
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    out.write_text("# Dual-level decoupling on nano\n\n" + __doc__.split("\n\n", 2)[2].strip() + "\n\n" + text + "\n")


if __name__ == "__main__":
    main()
