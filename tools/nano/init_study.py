"""What the mean-shifted initialization does on nano: strength, sampler, spacing, resize, composition, training, subjects.

    python tools/nano/init_study.py SELVEDGE WORK OUT.md

SELVEDGE is the program, WORK a folder for runs and pictures (what is there is not made again), OUT.md the table. Every
cell is 16 seeds; counts and Detect-and-Compare are by the embedded detector and DINOv2 (`score`). Trainings are
`quickstart`'s. Needs nothing but Python's standard library.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = ROOT / "src/assets/nano/subjects"
SUBJECTS = {
    "purple": ("olis", "purple and yellow dotted bear", PHOTOS / "bears/a"),
    "red": ("hta", "red and white striped bear", PHOTOS / "bears/b"),
    "robot": ("ult", "orange and blue checkered robot", PHOTOS / "robot_duck/a"),
    "duck": ("lun", "pink and black striped duck", PHOTOS / "robot_duck/b"),
}
GROUPS = {"bears": ["purple", "red"], "unlike": ["robot", "duck"], "three": ["purple", "red", "robot"],
          "four": ["purple", "red", "robot", "duck"]}
WIDE = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
SEEDS, STEPS = 16, 20


def run(*words):
    """Runs the program; its output."""
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, words))}\n{done.stderr}")
    return done.stdout


def listed(work, group, method, named=True):
    """A file with the subjects of a group and the keys that place them; without identifiers for the base alone."""
    text = f"[method]\n{method}\n" if method else ""
    for name in GROUPS[group]:
        token, words, photos = SUBJECTS[name]
        token = token if named else ""
        text += f'[[subject]]\nid = "{name}"\ntoken = "{token}"\nclass = "{words}"\nimages = "{photos}"\n'
    key = "".join(c for c in method if c.isalnum())
    path = work / f"{group}{key}{'' if named else '_bare'}.toml"
    path.write_text(text)
    return path


def trained(program, work, group, method="mudi", steps=900, targets=WIDE, probability=0.5):
    """The adapter of a training; made once."""
    name = f"{method}-{group}-{steps}-{len(targets)}-{probability}"
    out = work / "runs" / name
    if not (out / "adapter.safetensors").exists():
        sets = ["base=nano", "preset=", f"method.name={method}", f"method.mix_probability={probability}", "method.loss=mse",
                "train.resolution=128", f"train.steps={steps}", "train.batch=2", "train.accumulate=1",
                "train.learning_rate=1.5e-3", "train.schedule=cosine", "train.warmup_steps=10", "train.rank=32",
                f"train.targets={json.dumps(targets)}", "train.sample_every=0", "train.save_every=0"]
        words = [w for s in sets for w in ("--set", s)]
        run(program, "train", listed(work, group, ""), "--out", out, "--device", "cpu", *words)
    return out / "adapter.safetensors"


def cell(program, work, name, group, lora, gamma, flags=(), method=""):
    """Counts and means of 16 pictures."""
    subjects, out = listed(work, group, method, bool(lora)), work / "pictures" / name.replace(" ", "_").replace("/", "-")
    words = [(f"{SUBJECTS[n][0]} " if lora else "") + SUBJECTS[n][1] for n in GROUPS[group]]
    prompt = f"a photo of a {' and a '.join(words)}, on the grass"
    adapter = ["--lora", lora] if lora else []
    steps = [] if "--steps" in flags else ["--steps", STEPS]
    start = ["--init", "seg-mix", "--gamma", gamma] if gamma > 0 else ["--init", "none"]
    score = out / "score.json"
    if not score.exists():
        run(program, "generate", "--base", "nano", *adapter, "--prompt", prompt, "--no-negative", "--subjects", subjects, *start,
            *steps, "--guidance", 4, "--count", SEEDS, "--batch", 8, "--out", out, "--device", "cpu", *flags)
        eyes = work / "nano/eyes"
        queries = sorted({SUBJECTS[n][1].split()[-1] for n in GROUPS[group]})
        asked = [w for q in queries for w in ("--query", q)]
        score.write_text(run(program, "score", "--images", out, "--subjects", subjects, "--detector", eyes / "detector", *asked,
                             "--threshold", 0.4, "--nms", 0.8, "--dinov2", eyes / "dino", "--clip", eyes / "clip", "--out", out / "scores",
                             "--device", "cpu", "--json"))
    found, wanted = json.loads(score.read_text()), len(GROUPS[group])
    right = sum(i["boxes"] == wanted for i in found["images"])
    spread = "{:.2f} ({:.2f} to {:.2f})".format
    shown = lambda key: spread(found["mean"][key], *found["interval"][key]) if found["mean"].get(key) is not None else "-"
    keys = ("dc", "dc_spectral", "similarity_dinov2", "clip_score")
    row = f"| {name} | {right} of {SEEDS} | {' | '.join(map(shown, keys))} |"
    print(row, flush=True)
    return row


def main():
    """Makes every cell and writes the table."""
    program, work, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    (work / "runs").mkdir(parents=True, exist_ok=True)
    if not (work / "nano").exists():
        run(program, "export", "nano", work / "nano")
    rows = {}

    def add(title, *args, **kw):
        rows.setdefault(title, []).append(cell(program, work, *args, **kw))

    mudi = trained(program, work, "bears")
    dreambooth = trained(program, work, "bears", "dreambooth")
    for gamma in (0, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.25, 1.5):
        add("Strength, MuDI, two look-alike bears", f"gamma {gamma}", "bears", mudi, gamma)
    for gamma in (0, 0.3, 1):
        add("DreamBooth", f"dreambooth, gamma {gamma}", "bears", dreambooth, gamma)
    for gamma in (0, 0.3, 1):
        for sampler in ("ddim", "dpm++"):
            add("Sampler", f"{sampler}, gamma {gamma}", "bears", mudi, gamma, flags=["--sampler", sampler])
    for gamma in (0, 0.3, 1):
        for spacing in ("trailing", "linspace"):
            add("Spacing (leading is the default; its first step is the least noisy one)", f"{spacing}, gamma {gamma}", "bears",
                mudi, gamma, flags=["--spacing", spacing])
    for gamma in (0.3, 1):
        add("Mask resize", f"nearest, gamma {gamma}", "bears", mudi, gamma, flags=["--mask-resize", "nearest"])
        add("Sampling steps", f"50 steps, gamma {gamma}", "bears", mudi, gamma, flags=["--steps", "50"])
    for gamma in (0.3, 1):
        for what, keys in (("smaller (0.5 to 0.7)", "scale_min = 0.5\nscale_max = 0.7"), ("at the side (margin 32)", "margin = 32"),
                           ("apart (no overlap)", "overlap = false")):
            add("Composition", f"{what}, gamma {gamma}", "bears", mudi, gamma, method=keys)
    add("Composition", "dreambooth, apart (no overlap), gamma 1", "bears", dreambooth, 1, method="overlap = false")
    for steps in (300, 1800):
        adapter = trained(program, work, "bears", steps=steps)
        for gamma in (0, 0.3, 1):
            add("Training steps", f"{steps} steps, gamma {gamma}", "bears", adapter, gamma)
    adapter = trained(program, work, "bears", targets=WIDE[:4])
    for gamma in (0, 0.3, 1):
        add("LoRA on attention alone", f"attention, gamma {gamma}", "bears", adapter, gamma)
    for group in ("unlike", "three", "four"):
        adapter = trained(program, work, group)
        for gamma in (0, 0.3, 0.6, 1):
            add("Other subjects", f"{group}, gamma {gamma}", group, adapter, gamma)
        add("Other subjects", f"{group}, apart, gamma 1", group, adapter, 1, method="overlap = false")
    for group in ("bears", "three", "four"):
        for gamma in (0, 0.3, 1):
            add("The base without an adapter", f"base, {group}, gamma {gamma}", group, None, gamma)
        add("The base without an adapter", f"base, {group}, apart, gamma 1", group, None, 1, method="overlap = false")
    head = "| cell | right number | D&C | D&C, spectral | similarity | CLIP score |\n|---|---|---|---|---|---|\n"
    text = "".join(f"\n## {title}\n\n{head}" + "\n".join(lines) + "\n" for title, lines in rows.items())
    out.write_text("# The mean-shifted initialization on nano\n\n" + __doc__.split("\n\n", 1)[1].strip() + "\n" + text)


if __name__ == "__main__":
    main()
