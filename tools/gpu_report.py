"""Puts the results of tools/gpu.sh beside each other: results.json and results.md in the given folder.

    python3 tools/gpu_report.py benches/results/DATE-CHIP

Only what was measured is written; what is missing is named. Standard library only.
"""

import json
import sys
from pathlib import Path


def lines(path):
    """The JSON objects of a file, one a line; none when it is not there."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text().splitlines():
        if line.startswith("{"):
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                pass  # a part that was cut in the middle of a line
    return found


def dtype(row):
    return str(row.get("dtype", "")).replace("bfloat16", "bf16").replace("float16", "f16")


class Peers:
    """The fastest peer of every operation, pass and shape; a bias of ours that the peer lacks does not count."""

    def __init__(self, rows):
        self.best = {}
        for row in rows:
            if "ms" not in row or "op" not in row:
                continue
            key = row["op"], row["pass"], json.dumps(row["dims"]), dtype(row)
            if row["ms"] < self.best.get(key, {"ms": 1e30})["ms"]:
                self.best[key] = row

    def of(self, row):
        for count in (len(row["dims"]), len(row["dims"]) - 1):
            for name in (row["pass"], "backward" if row["pass"].startswith("backward") else row["pass"]):
                found = self.best.get((row["op"], name, json.dumps(row["dims"][:count]), dtype(row)))
                if found and (name == row["pass"] or row["op"] == "attention"):
                    return found
        return None


def markdown(header, rows):
    out = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return out + ["| " + " | ".join(str(c) for c in row) + " |" for row in rows] + [""]


def number(value, digits=3):
    return "" if value is None else f"{value:.{digits}f}"


class Table:
    """What was measured beside what it is compared with: one row each, with the ratio and its interval."""

    HEADER = ["what", "ours ms", "95 %", "compared with", "its ms", "ours / its", "95 %", "note"]

    def __init__(self):
        self.rows = []

    def add(self, what, ours, rival=None, name="", note=""):
        """`ours` and `rival`: median, low, high in ms, or None."""
        cells = [what, number(ours[0], 4), f"{ours[1]:.4f} to {ours[2]:.4f}" if ours[1] else ""] if ours else [what, "", ""]
        ratio = ["", "", "", ""]
        if ours and rival:
            low, high = (ours[1] / rival[2], ours[2] / rival[1]) if ours[1] and rival[1] else (None, None)
            ratio = [name, number(rival[0], 4), f"{ours[0] / rival[0]:.2f}", f"{low:.2f} to {high:.2f}" if low else ""]
        elif rival:
            ratio = [name, number(rival[0], 4), "", ""]
        self.rows.append(cells + ratio + [note])


def series(row, key="ms"):
    """Median and interval of a row, or None."""
    middle = row.get(key) if row else None
    stem = key[: -len("ms")]
    return (middle, row.get(f"{stem}low_ms"), row.get(f"{stem}high_ms")) if middle else None


def kernels(rows, peers, table):
    for row in rows:
        what = f"{row['case']} {row['dtype']} {row.get('pass', '')}".strip()
        ours = series(row, "cold_ms")
        if not ours:
            table.add(what, None, note=row.get("problem") or "not measured")
            continue
        peer = peers.of(row)
        rival, name = (series(peer), f"torch ({peer['backend']})") if peer else (None, "")
        if not rival and row.get("cublas_ms"):
            rival, name = (row["cublas_ms"], None, None), "cuBLAS"
        note = f"{row.get('variant', '')} {row['flop'] / ours[0] / 1e9:.1f} TFLOP/s, {row['bytes'] / ours[0] / 1e6:.0f} GB/s"
        if row.get("floor_ms"):
            note += f", {100 * row['floor_ms'] / ours[0]:.0f} % of the roofline"
        launch = row.get("launch") or {}
        if "own_us" in launch:
            table.add(f"{what}: launch", (launch["own_us"] / 1e3, None, None), (launch["cust_us"] / 1e3, None, None), "cust")
        table.add(what, ours, rival, name, (note + "; " + row["problem"]) if row.get("problem") else note.strip())


# Steps of MuDI's training on SDXL, and pictures of a prior set, which the DCO variant does without.
MUDI_STEPS, PRIOR_PICTURES = 1400, 200


def steps(found, peers, table):
    """SDXL: steps and pictures, then the time of a whole run from them."""
    torch = {(p.get("what"), p.get("batch"), p.get("mode")): p for p in peers if p.get("model")}
    measured = {}
    for key, what, batch in (("denoise", "denoise", 2), ("train", "train", 1), ("train", "train", 4)):
        row = (found.get(f"step-{what}-{batch}") or [{}])[-1]
        ours, rival = series({"ms": row.get(f"{key}_step_ms")}), torch.get((what, batch, "eager"))
        measured[what, batch] = ours, series(rival)
        memory = [f"{m / 1e9:.1f} GB" for m in (row.get("peak_bytes"), (rival or {}).get("peak_bytes")) if m]
        table.add(f"SDXL {what}, batch {batch}", ours, series(rival), "diffusers, peft, eager", "peak " + " / ".join(memory) if memory else "not measured")
    for what, batch, other, name in (
        ("train", 4, "before", "ours, adapters in launches of their own"),
        ("train", 4, "programmatic", "ours, --programmatic"),
        ("train", 4, "once", "ours, attention backward in one pass"),
        ("denoise", 2, "programmatic", "ours, --programmatic"),
    ):
        row = (found.get(f"step-{what}-{batch}-{other}") or [{}])[-1]
        rival = series({"ms": row.get(f"{what}_step_ms")})
        table.add(f"SDXL {what}, batch {batch}", measured[what, batch][0], rival, name, "" if rival else "not measured")
    compiled = torch.get(("train", 4, "compiled"))
    table.add("SDXL train, batch 4", measured["train", 4][0], series(compiled), "torch.compile", (compiled or {}).get("skipped", "" if compiled else "not measured"))
    one, three = (found.get(f"seconds-{n}") for n in ("picture-1.txt", "picture-3.txt"))
    ours = ((three - one) / 2 * 1e3, None, None) if one and three and three > one else None
    picture = torch.get(("picture", 1, "eager"))
    table.add("SDXL picture of 1024 x 1024, 30 steps", ours, series(picture), "diffusers, eager", f"with start and load {one:.0f} s" if one else "not measured")
    for name, pictures in (("v1", PRIOR_PICTURES), ("dco", 0)):
        minutes = []
        for i in (0, 1):
            step, image = measured["train", 1][i], (ours, series(picture))[i]
            known = step and (image or not pictures)
            whole = MUDI_STEPS * step[0] + (pictures * image[0] if pictures else 0) if known else None
            minutes.append((whole, None, None) if whole else None)
        note = f"{MUDI_STEPS} measured steps of batch 1" + (f" and {pictures} pictures of 30 steps" if pictures else "")
        table.add(f"MuDI {name} on SDXL, the run", minutes[0], minutes[1], "diffusers, peft, eager", note if minutes[0] or minutes[1] else "not measured")


def main():
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("usage: tools/gpu_report.py FOLDER")
    folder = Path(sys.argv[1])
    checks = lines(folder / "check.jsonl")
    bench = [row for path in sorted(folder.glob("kernels*.jsonl")) + [folder / "launch.jsonl"] for row in lines(path)]
    peers = [row for path in sorted(folder.glob("peers-*.jsonl")) for row in lines(path)]
    found = {p.stem: lines(p) for p in sorted(folder.glob("step-*.json"))}
    parts = [line.split("\t") for line in (folder / "parts.tsv").read_text().splitlines()] if (folder / "parts.tsv").is_file() else []
    found.update({f"seconds-{name}": float(seconds) for name, seconds, state in parts if state == "ok"})
    text = [f"# {folder.name}", ""]
    machine = folder / "machine.csv"
    if machine.is_file():
        text += ["```", machine.read_text().strip(), "```", ""]
    bad = [(name, seconds, state) for name, seconds, state in parts if state != "ok"]
    if parts:
        text += [f"{len(parts)} parts, {sum(float(s) for _, s, _ in parts):.0f} s; {len(bad)} not whole."]
        text += [f"- {name}: {state}" for name, _, state in bad] + [""]
    wrong = [c for c in checks if not c.get("ok")]
    text += [f"Correctness: {len(checks)} comparisons with the CPU, {len(wrong)} failed." if checks else "Correctness: not measured.", ""]
    text += markdown(["case", "type", "problem"], [[c["case"], c["dtype"], f"{c.get('word', '')} {c['detail']}"] for c in wrong]) if wrong else []
    table = Table()
    steps(found, peers, table)
    seen = set()
    kernels([r for r in bench if not ((k := (r["case"], r["dtype"], r.get("pass"), "launch" in r and bool(r["launch"]))) in seen or seen.add(k))], Peers(peers), table)
    text += ["Times are medians; the kernels' with operands that are not in the cache. A ratio below 1: ours is faster.", ""]
    text += markdown(Table.HEADER, table.rows)
    text += [f"- skipped: {row['skipped']} ({row.get('op') or row.get('what')})" for row in peers if row.get("skipped")]
    (folder / "results.md").write_text("\n".join(text))
    everything = {"folder": folder.name, "parts": parts, "checks": checks, "kernels": bench, "peers": peers, "steps": found}
    (folder / "results.json").write_text(json.dumps(everything, indent=1))
    print(folder / "results.md")


if __name__ == "__main__":
    main()
