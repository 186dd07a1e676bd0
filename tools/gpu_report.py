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
            found.append(json.loads(line))
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


def table(header, rows):
    out = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return out + ["| " + " | ".join(str(c) for c in row) + " |" for row in rows] + [""]


def number(value, digits=3):
    return "" if value is None else f"{value:.{digits}f}"


def kernels(rows, peers):
    out = []
    for row in rows:
        ms = row.get("warm_ms") or row.get("cold_ms")
        if not ms:
            out.append([row["case"], row["dtype"], row["pass"], row.get("variant", ""), row.get("problem", "not measured"), "", "", "", "", ""])
            continue
        peer = peers.of(row)
        rival = peer["ms"] if peer else row.get("cublas_ms")
        name = peer["backend"] if peer else ("cuBLAS" if row.get("cublas_ms") else "")
        out.append([row["case"], row["dtype"], row["pass"], row.get("variant", ""), number(row.get("cold_ms"), 4), number(row.get("warm_ms"), 4),
                    number(row["flop"] / ms / 1e9, 1), number(row["bytes"] / ms / 1e6, 0), number(rival, 4),
                    f"{rival / ms:.2f} ({name})" if rival else ""])
    return table(["case", "type", "pass", "variant", "cold ms", "warm ms", "TFLOP/s", "GB/s", "peer ms", "peer / ours"], out)


def main():
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("usage: tools/gpu_report.py FOLDER")
    folder = Path(sys.argv[1])
    checks, bench, peers = (lines(folder / f) for f in ("check.jsonl", "kernels.jsonl", "peers.jsonl"))
    steps = {p.stem: lines(p)[-1:] for p in sorted(folder.glob("*-[0-9].json"))}
    text = [f"# {folder.name}", ""]
    machine = folder / "machine.csv"
    if machine.is_file():
        text += ["```", machine.read_text().strip(), "```", ""]
    wrong = [c for c in checks if not c.get("ok")]
    text += [f"Correctness: {len(checks)} comparisons with the CPU, {len(wrong)} wrong." if checks else "Correctness: not measured.", ""]
    text += table(["case", "type", "problem"], [[c["case"], c["dtype"], c["detail"]] for c in wrong]) if wrong else []
    text += ["## Kernels", ""] + (kernels(bench, Peers(peers)) if bench else ["Not measured.", ""])
    text += ["## SDXL, random weights", ""]
    rows = [[name, number(r[0].get("denoise_step_ms"), 2), number(r[0].get("train_step_ms"), 2), number((r[0].get("peak_bytes") or 0) / 1e9, 2)]
            for name, r in steps.items() if r]
    text += table(["ours", "denoise ms", "train ms", "peak GB"], rows) if rows else ["Ours: not measured.", ""]
    rows = [[r.get("what", "skipped"), r.get("mode", ""), r.get("batch", ""), number(r.get("ms"), 2), number((r.get("peak_bytes") or 0) / 1e9, 2), r.get("skipped", "")]
            for r in peers if r.get("model")]
    text += table(["torch, diffusers, peft", "mode", "batch", "ms", "peak GB", ""], rows) if rows else ["Peers: not measured.", ""]
    (folder / "results.md").write_text("\n".join(text))
    everything = {"folder": folder.name, "checks": checks, "kernels": bench, "peers": peers, "steps": steps}
    (folder / "results.json").write_text(json.dumps(everything, indent=1))
    print(folder / "results.md")


if __name__ == "__main__":
    main()
