"""Draws curves/unet.csv and curves/vae.csv as curves/curves.svg (no plotting library).

    python curves.py
"""
import csv
import math
from pathlib import Path

HERE = Path(__file__).parent / "curves"
WIDTH, HEIGHT, EDGE = 460, 260, 50


def read(name, x, y):
    """Two columns of a curve file as numbers; where a stopped run went over steps again, the last."""
    with open(HERE / name, encoding="utf-8") as file:
        points = {float(row[x]): float(row[y]) for row in csv.DictReader(file)}
    return sorted(points.items())


def panel(points, left, title, bottom, top, unit, log=False):
    """One framed curve; `unit` names the x axis and its divisor."""
    label, divisor = unit
    scale = math.log if log else float
    right = max(x for x, _ in points)

    def place(x, y):
        part = (scale(min(max(y, bottom), top)) - scale(bottom)) / (scale(top) - scale(bottom))
        return (left + EDGE + x / right * (WIDTH - 1.4 * EDGE),
                HEIGHT - EDGE - part * (HEIGHT - 2 * EDGE))

    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*p) for p in points))
    out = [f'<text x="{left + EDGE}" y="30" font-weight="bold">{title}</text>',
           f'<polyline points="{line}" fill="none" stroke="#1f5fbf" stroke-width="1.5"/>',
           f'<text x="{left + WIDTH - 60}" y="{HEIGHT - 12}" text-anchor="end">{label}</text>']
    for y in (bottom, (bottom * top) ** 0.5 if log else (bottom + top) / 2, top):
        px, py = place(0, y)
        out.append(f'<path d="M{px:.0f} {py:.0f}H{left + WIDTH - 20}" stroke="#ddd"/>')
        out.append(f'<text x="{px - 6:.0f}" y="{py + 4:.0f}" text-anchor="end">{y:.3g}</text>')
    for x in (0, right / 2, right):
        px, py = place(x, bottom)
        out.append(f'<text x="{px:.0f}" y="{py + 18:.0f}" text-anchor="middle">'
                   f'{x / divisor:.0f}</text>')
    return out


def main():
    """Writes the drawing."""
    loss = read("unet.csv", "samples", "loss")
    score = read("vae.csv", "step", "psnr_mean_of_db")
    parts = panel(loss, 0, "U-Net: loss (log scale)", 0.04, 0.8, ("thousand samples", 1000), True)
    parts += panel(score, WIDTH, "Autoencoder: PSNR, 128 unseen, dB", 22, 31, ("steps", 1))
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH}" height="{HEIGHT}" '
            'font-family="sans-serif" font-size="12">')
    background = '<rect width="100%" height="100%" fill="white"/>'
    (HERE / "curves.svg").write_text("\n".join([head, background, *parts, "</svg>", ""]),
                                     encoding="utf-8")


if __name__ == "__main__":
    main()
