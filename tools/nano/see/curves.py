"""Draws the curves of WORK as curves/curves.svg and keeps their numbers beside it.

    python curves.py WORK
"""
import csv
import math
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent / "curves"
NAMES = {"detector": "Detector", "detector_loose": "Detector, second stage",
         "detector_alone": "Detector, third stage", "dino": "Embedder",
         "dino_dressed": "Embedder, second stage",
         "segmenter": "Segmenter", "clip": "CLIP", "clip_painted": "CLIP, second stage"}
WIDTH, HEIGHT, EDGE = 460, 260, 50


def panel(points, left, up, title):
    """One framed curve of (samples, loss), the loss on a log scale."""
    low, high = min(y for _, y in points) * 0.9, max(y for _, y in points) * 1.1
    right = max(x for x, _ in points)

    def place(x, y):
        part = math.log(y / low) / math.log(high / low)
        return left + EDGE + x / right * (WIDTH - 1.4 * EDGE), up + HEIGHT - EDGE - part * (HEIGHT - 2 * EDGE)

    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*p) for p in points))
    out = [f'<text x="{left + EDGE}" y="{up + 30}" font-weight="bold">{title}: loss (log scale)</text>',
           f'<polyline points="{line}" fill="none" stroke="#1f5fbf" stroke-width="1.5"/>',
           f'<text x="{left + WIDTH - 60}" y="{up + HEIGHT - 12}" text-anchor="end">thousand samples</text>']
    for y in (low, (low * high) ** 0.5, high):
        px, py = place(0, y)
        out.append(f'<path d="M{px:.0f} {py:.0f}H{left + WIDTH - 20}" stroke="#ddd"/>')
        out.append(f'<text x="{px - 6:.0f}" y="{py + 4:.0f}" text-anchor="end">{y:.3g}</text>')
    for x in (0, right / 2, right):
        px, py = place(x, low)
        out.append(f'<text x="{px:.0f}" y="{py + 18:.0f}" text-anchor="middle">{x / 1000:.0f}</text>')
    return out


def main():
    """Copies the numbers and writes the drawing."""
    work, parts = Path(sys.argv[1]), []
    HERE.mkdir(exist_ok=True)
    for i, (name, title) in enumerate(NAMES.items()):
        shutil.copy(work / f"{name}.csv", HERE / f"{name}.csv")
        with open(HERE / f"{name}.csv", encoding="utf-8") as file:
            points = [(float(row[0]), float(row[1])) for row in csv.reader(file)]
        parts += panel(points, (i % 2) * WIDTH, (i // 2) * HEIGHT, title)
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH}" height="{(len(NAMES) + 1) // 2 * HEIGHT}" '
            'font-family="sans-serif" font-size="12">')
    background = '<rect width="100%" height="100%" fill="white"/>'
    (HERE / "curves.svg").write_text("\n".join([head, background, *parts, "</svg>", ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
