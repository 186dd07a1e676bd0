"""Draws a scene: toys of shaded solids on a background, with the exact mask of every toy.

Parallel projection, 2 x 2 samples a pixel, Lambert and highlight shading, a soft shadow.
"""
import numpy as np

from places import PLACES, SIZE, View, X, Y
from solids import BOX, SPHERE, hit
from toys import CLASSES, COLOURS, ROLES, accessory_parts

SAMPLES = 2
LIGHT = np.array([-0.45, 0.75, 0.55], np.float32)
LIGHT /= np.linalg.norm(LIGHT)
HALF = LIGHT + np.array([0, 0, 1], np.float32)
HALF /= np.linalg.norm(HALF)


def turn(axis, degrees):
    """A rotation about x, y or z."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    rows = {"x": [[1, 0, 0], [0, c, -s], [0, s, c]], "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
            "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]]}
    return np.array(rows[axis], np.float32)


def colour_of(name):
    """The colour as an array."""
    return np.array(COLOURS[name], np.float32)


def colours_of(subject):
    """Role -> colour for one subject."""
    colours = {role: np.array(value, np.float32) for role, value in ROLES.items()}
    colours["main"] = colour_of(subject["colour"])
    colours["head"] = colour_of(subject.get("head") or subject["colour"])
    limb = subject.get("limb") or subject["colour"]
    if subject["cls"] in ("house", "cactus") and not subject.get("limb"):
        limb = "brown" if subject["colour"] != "brown" else "red"  # the roof, the pot
    colours["limb"] = colour_of(limb)
    return colours


def pattern(subject, solid, q, r):
    """Where points q [3, n] of a solid with radii r take the second colour."""
    cls, v = subject["cls"], q[1] * r[1]
    if solid == BOX:
        u = np.where(np.abs(q[0]) > 0.999, q[2] * r[2], q[0] * r[0])
        v = np.where(np.abs(q[1]) > 0.999, q[2] * r[2], v)
    else:
        u = np.arctan2(q[0], q[2]) * (r[0] + r[2]) / 2
    if solid == SPHERE and cls in ("fish", "duck"):
        u = q[2] * r[2]
    if subject["pattern"] == "striped":
        return np.floor((u if cls in ("fish", "car") else v) / 0.19) % 2 == 0
    if subject["pattern"] == "dotted":
        across = (u / 0.36 + 0.5 * (np.floor(v / 0.36) % 2)) % 1 - 0.5
        return across ** 2 + ((v / 0.36) % 1 - 0.5) ** 2 < 0.1
    return (np.floor(u / 0.27) + np.floor(v / 0.27)) % 2 == 0


class Canvas:
    """Colour and depth at SAMPLES x the size of the picture, for one toy."""

    def __init__(self, subject):
        self.subject, self.width = subject, SIZE * SAMPLES
        self.body = (turn("x", subject.get("pitch", 18)) @ turn("y", subject["yaw"])
                     @ turn("z", subject.get("lean", 0)))
        self.scale = subject["scale"] * SAMPLES
        self.x, self.y = subject["x"] * SAMPLES, subject["y"] * SAMPLES
        self.depth = np.full((self.width, self.width), -1e8, np.float32)
        self.colour = np.zeros((self.width, self.width, 3), np.float32)
        self.colours = colours_of(subject)

    def box(self, solid, matrix, radii, centre):
        """The pixels that a part can touch: x0, y0, x1, y1."""
        reach = matrix * radii
        ext = np.sqrt((reach ** 2).sum(1)) if solid == SPHERE else np.abs(reach).sum(1)
        s = self.scale
        x0, x1 = self.x + (centre[0] - ext[0]) * s, self.x + (centre[0] + ext[0]) * s
        y0, y1 = self.y - (centre[1] + ext[1]) * s, self.y - (centre[1] - ext[1]) * s
        return (max(int(x0) - 1, 0), max(int(y0) - 1, 0),
                min(int(x1) + 2, self.width), min(int(y1) + 2, self.width))

    def part(self, solid, centre, radii, role, tilt, patterned):
        """Draws one part where it is nearer than what is there."""
        matrix = self.body @ turn("z", tilt)
        radii = np.array(radii, np.float32)
        centre = self.body @ np.array(centre, np.float32)
        x0, y0, x1, y1 = self.box(solid, matrix, radii, centre)
        if x1 <= x0 or y1 <= y0:
            return
        x = (np.arange(x0, x1, dtype=np.float32) + 0.5 - self.x) / self.scale - centre[0]
        y = -(np.arange(y0, y1, dtype=np.float32) + 0.5 - self.y) / self.scale - centre[1]
        inverse = (matrix.T / radii[:, None]).astype(np.float32)
        o = (inverse[:, 0, None, None] * x + inverse[:, 1, None, None] * y[:, None]).reshape(3, -1)
        d = inverse[:, 2].copy()
        t, normal = hit(solid, o, d)
        z = t + centre[2]
        seen = (t > -1e6) & (z > self.depth[y0:y1, x0:x1].reshape(-1))
        if not seen.any():
            return
        q = o[:, seen] + d[:, None] * t[seen]
        normal = matrix @ (normal[:, seen] / radii[:, None])
        normal /= np.sqrt((normal * normal).sum(0)) + 1e-6
        colour = self.colours[role] if role in self.colours else colour_of(role)
        colour = np.broadcast_to(colour[:, None], q.shape)
        if patterned and self.subject["pattern"] != "plain":
            second = colour_of(self.subject["second"])[:, None]
            colour = np.where(pattern(self.subject, solid, q, radii)[None], second, colour)
        bright = 0.5 + 0.6 * np.maximum(LIGHT @ normal, 0)
        shade = np.clip(colour * bright + 55 * np.maximum(HALF @ normal, 0) ** 20, 0, 255)
        row, column = np.divmod(np.flatnonzero(seen), x1 - x0)
        self.depth[row + y0, column + x0] = z[seen]
        self.colour[row + y0, column + x0] = shade.T

    def result(self):
        """Premultiplied colour [SIZE, SIZE, 3] and coverage [SIZE, SIZE]."""
        shape = (SIZE, SAMPLES, SIZE, SAMPLES)
        cover = (self.depth > -1e7).astype(np.float32).reshape(shape).mean((1, 3))
        return self.colour.reshape(*shape, 3).mean((1, 3)), cover


def draw_toy(subject):
    """One toy with its accessories, see `Canvas.result`."""
    canvas = Canvas(subject)
    for part in CLASSES[subject["cls"]][0]:
        canvas.part(*part)
    for kind, colour in subject.get("acc", []):
        for part in accessory_parts(subject["cls"], kind, colour):
            canvas.part(*part)
    return canvas.result()


def shadow(subject):
    """The soft contact shadow under a toy, 0 to 1."""
    w = subject["scale"] * 0.75
    x, y = (X - subject["x"] - w * 0.15) / w, (Y - subject["y"] + 1) / (w * 0.33)
    return np.exp(-(x ** 2 + y ** 2) * 1.6)


def render(spec):
    """A scene -> picture u8 [SIZE, SIZE, 3] and every subject's mask (its visible part)."""
    picture = PLACES[spec["bg"]][1](View(spec["hz"], np.random.default_rng(spec["seed"])))
    subjects = spec["subjects"]
    order = sorted(range(len(subjects)), key=lambda i: subjects[i]["y"])  # the far one first
    strength = 0.22 if spec["bg"] == "white" else 0.5
    for i in order:
        picture = picture * (1 - strength * shadow(subjects[i]))[..., None]
    masks = [np.zeros((SIZE, SIZE), bool) for _ in subjects]
    for i in order:
        colour, cover = draw_toy(subjects[i])
        picture = colour + picture * (1 - cover[..., None])
        masks = [m & (cover < 0.5) for m in masks]
        masks[i] = cover >= 0.5
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8), masks
