"""The toys as data: colours, and for each class the solids it is built of.

A part is (solid, centre, radii, role, tilt in degrees about z, patterned). The toy stands on y = 0,
is about 2 tall and looks along +z. The role names the colour: `main`, `head` and `limb` come from
the subject, the rest from ROLES. The anchors say where a hat (y, radius), a scarf (y, z, radius) or
glasses (y, z, half distance) sit.
"""
import numpy as np

from solids import BOX, CONE, CYLINDER, DOME, NOSE, PYRAMID, SPHERE, WEDGE, WHEEL

COLOURS = dict(
    red=(210, 40, 40),
    orange=(240, 130, 30),
    yellow=(245, 210, 50),
    green=(50, 160, 60),
    teal=(30, 165, 165),
    blue=(45, 80, 205),
    purple=(130, 55, 175),
    pink=(245, 130, 180),
    brown=(125, 78, 45),
    white=(240, 240, 240),
    black=(40, 40, 45),
    gray=(140, 140, 145),
)
#: Colours that every toy shares.
ROLES = dict(
    light=(238, 226, 205),
    dark=(35, 32, 38),
    nose=(235, 130, 150),
    beak=(245, 150, 40),
    glow=(255, 235, 130),
    glass=(120, 195, 235),
    eyeball=(245, 245, 245),
)
#: Preferred turn in degrees, so that the shape is readable.
TURN = {"car": 62, "fish": 62, "duck": 30}


def pair(solid, centre, radii, role, tilt=0):
    """The part and its mirror image in x."""
    x, y, z = centre
    return [(solid, (x, y, z), radii, role, tilt, 0), (solid, (-x, y, z), radii, role, -tilt, 0)]


def face(y, z, apart, radius=0.07):
    """Two eyes."""
    return pair(SPHERE, (apart, y, z), (radius, radius, radius), "dark")


CLASSES = {
    "bear": (
        [
            (SPHERE, (0, 0.62, 0), (0.5, 0.55, 0.42), "main", 0, 1),
            (SPHERE, (0, 1.38, 0.05), (0.44, 0.4, 0.38), "head", 0, 0),
            (SPHERE, (0, 1.27, 0.38), (0.19, 0.15, 0.14), "light", 0, 0),
            (SPHERE, (0, 1.32, 0.52), (0.07, 0.05, 0.05), "dark", 0, 0),
        ]
        + pair(SPHERE, (0.32, 1.74, 0), (0.16, 0.16, 0.1), "head")
        + face(1.47, 0.38, 0.17)
        + pair(SPHERE, (0.55, 0.78, 0.12), (0.15, 0.36, 0.17), "limb", 25)
        + pair(SPHERE, (0.3, 0.15, 0.22), (0.2, 0.17, 0.32), "limb"),
        dict(hat=(1.74, 0.26), neck=(1.05, 0.05, 0.36), eyes=(1.47, 0.4, 0.17)),
    ),
    "cat": (
        [
            (SPHERE, (0, 0.55, 0), (0.38, 0.55, 0.4), "main", 0, 1),
            (SPHERE, (0, 1.3, 0.1), (0.43, 0.36, 0.36), "head", 0, 0),
            (SPHERE, (0, 1.2, 0.43), (0.07, 0.05, 0.05), "nose", 0, 0),
        ]
        + pair(CONE, (0.27, 1.68, 0.08), (0.15, 0.2, 0.1), "head", -12)
        + face(1.36, 0.42, 0.17, 0.08)
        + pair(SPHERE, (0.2, 0.22, 0.3), (0.12, 0.25, 0.14), "limb")
        + [(SPHERE, (0.55, 0.5, -0.3), (0.09, 0.5, 0.09), "limb", -35, 0)],
        dict(hat=(1.62, 0.24), neck=(0.98, 0.05, 0.32), eyes=(1.36, 0.42, 0.17)),
    ),
    "rabbit": (
        [
            (SPHERE, (0, 0.5, 0), (0.42, 0.5, 0.4), "main", 0, 1),
            (SPHERE, (0, 1.18, 0.1), (0.36, 0.34, 0.33), "head", 0, 0),
            (SPHERE, (0, 1.1, 0.41), (0.06, 0.05, 0.05), "nose", 0, 0),
        ]
        + pair(SPHERE, (0.17, 1.78, 0.05), (0.11, 0.42, 0.08), "head", -8)
        + face(1.25, 0.39, 0.14)
        + pair(SPHERE, (0.26, 0.13, 0.25), (0.16, 0.14, 0.3), "limb")
        + pair(SPHERE, (0.4, 0.65, 0.15), (0.12, 0.26, 0.12), "limb", 20),
        dict(hat=(1.48, 0.2), neck=(0.9, 0.05, 0.3), eyes=(1.25, 0.4, 0.14)),
    ),
    "duck": (
        [
            (SPHERE, (0, 0.5, -0.05), (0.52, 0.44, 0.7), "main", 0, 1),
            (SPHERE, (0, 1.15, 0.35), (0.36, 0.35, 0.35), "head", 0, 0),
            (SPHERE, (0, 1.08, 0.76), (0.2, 0.07, 0.2), "beak", 0, 0),
            (CONE, (0, 0.75, -0.65), (0.2, 0.25, 0.2), "main", 0, 0),
        ]
        + face(1.24, 0.66, 0.15)
        + pair(SPHERE, (0.5, 0.55, -0.08), (0.1, 0.26, 0.42), "limb", 8),
        dict(hat=(1.46, 0.24), neck=(0.88, 0.3, 0.3), eyes=(1.24, 0.68, 0.15)),
    ),
    "penguin": (
        [
            (SPHERE, (0, 0.8, 0), (0.48, 0.8, 0.42), "main", 0, 1),
            (SPHERE, (0, 0.65, 0.18), (0.33, 0.55, 0.3), "light", 0, 0),
            (CONE, (0, 1.25, 0.5), (0.1, 0.12, 0.1), "beak", 0, 0),
            (SPHERE, (0, 1.42, 0.05), (0.38, 0.34, 0.35), "head", 0, 0),
        ]
        + face(1.45, 0.4, 0.15)
        + pair(SPHERE, (0.54, 0.75, 0), (0.09, 0.4, 0.2), "limb", 18)
        + pair(SPHERE, (0.22, 0.06, 0.25), (0.18, 0.07, 0.25), "beak"),
        dict(hat=(1.72, 0.24), neck=(1.14, 0.05, 0.38), eyes=(1.45, 0.41, 0.15)),
    ),
    "robot": (
        [
            (BOX, (0, 0.82, 0), (0.42, 0.38, 0.3), "main", 0, 1),
            (BOX, (0, 1.5, 0), (0.33, 0.25, 0.28), "head", 0, 0),
            (CYLINDER, (0, 1.86, 0), (0.03, 0.14, 0.03), "dark", 0, 0),
            (SPHERE, (0, 2.02, 0), (0.08, 0.08, 0.08), "beak", 0, 0),
            (BOX, (0, 1.4, 0.28), (0.18, 0.03, 0.03), "dark", 0, 0),
        ]
        + pair(SPHERE, (0.15, 1.56, 0.27), (0.09, 0.09, 0.06), "glow")
        + pair(CYLINDER, (0.54, 0.8, 0), (0.1, 0.36, 0.1), "limb", 10)
        + pair(BOX, (0.2, 0.22, 0.02), (0.13, 0.24, 0.17), "limb"),
        dict(hat=(1.75, 0.22), neck=(1.22, 0, 0.34), eyes=(1.56, 0.3, 0.15)),
    ),
    "car": (
        [
            (BOX, (0, 0.45, 0), (0.42, 0.22, 0.95), "main", 0, 1),
            (BOX, (0, 0.82, -0.1), (0.36, 0.2, 0.5), "head", 0, 0),
            (BOX, (0, 0.82, -0.1), (0.38, 0.12, 0.42), "glass", 0, 0),
        ]
        + [
            (WHEEL, (x, 0.24, z), (0.1, 0.24, 0.24), "dark", 0, 0)
            for x in (0.42, -0.42)
            for z in (0.55, -0.55)
        ]
        + pair(SPHERE, (0.26, 0.48, 0.95), (0.09, 0.09, 0.05), "glow"),
        dict(hat=(1.02, 0.24)),
    ),
    "house": (
        [
            (BOX, (0, 0.55, 0), (0.58, 0.55, 0.5), "main", 0, 1),
            (PYRAMID, (0, 1.45, 0), (0.8, 0.36, 0.7), "limb", 0, 0),
            (BOX, (0, 0.3, 0.5), (0.14, 0.3, 0.03), "dark", 0, 0),
            (BOX, (0.38, 1.45, -0.1), (0.09, 0.28, 0.09), "dark", 0, 0),
        ]
        + pair(BOX, (0.36, 0.72, 0.5), (0.12, 0.13, 0.03), "glow"),
        dict(),
    ),
    "mushroom": (
        [
            (CYLINDER, (0, 0.42, 0), (0.27, 0.42, 0.27), "light", 0, 0),
            (DOME, (0, 0.8, 0), (0.75, 0.72, 0.75), "main", 0, 1),
        ]
        + face(0.5, 0.27, 0.12),
        dict(hat=(1.48, 0.22)),
    ),
    "rocket": (
        [
            (CYLINDER, (0, 0.95, 0), (0.33, 0.55, 0.33), "main", 0, 1),
            (CONE, (0, 1.82, 0), (0.33, 0.34, 0.33), "head", 0, 0),
            (SPHERE, (0, 1.2, 0.28), (0.15, 0.15, 0.1), "glass", 0, 0),
            (CONE, (0, 0.25, 0), (0.22, 0.2, 0.22), "beak", 180, 0),
        ]
        + pair(BOX, (0.42, 0.5, 0), (0.14, 0.24, 0.04), "limb", 20),
        dict(),
    ),
    "fish": (
        [
            (SPHERE, (0, 0.72, 0), (0.3, 0.45, 0.72), "main", 0, 1),
            (WEDGE, (0, 0.72, -0.85), (0.1, 0.42, 0.32), "limb", 0, 0),
            (PYRAMID, (0, 1.2, -0.05), (0.08, 0.2, 0.4), "limb", 0, 0),
            (CYLINDER, (0, 0.16, 0), (0.06, 0.2, 0.06), "dark", 0, 0),
            (CYLINDER, (0, 0.03, 0), (0.3, 0.04, 0.3), "dark", 0, 0),
        ]
        + pair(SPHERE, (0.24, 0.85, 0.42), (0.06, 0.1, 0.1), "eyeball")
        + pair(SPHERE, (0.29, 0.85, 0.46), (0.04, 0.06, 0.06), "dark"),
        dict(hat=(1.12, 0.2)),
    ),
    "ghost": (
        [
            (CYLINDER, (0, 0.6, 0), (0.5, 0.5, 0.45), "main", 0, 1),
            (DOME, (0, 1.08, 0), (0.5, 0.6, 0.45), "head", 0, 0),
            (SPHERE, (0, 0.95, 0.44), (0.1, 0.13, 0.05), "dark", 0, 0),
        ]
        + [
            (SPHERE, (np.sin(a) * 0.38, 0.12, np.cos(a) * 0.33), (0.15, 0.15, 0.15), "main", 0, 0)
            for a in np.arange(8) * np.pi / 4
        ]
        + face(1.25, 0.42, 0.18, 0.1)
        + pair(SPHERE, (0.56, 0.75, 0.15), (0.16, 0.12, 0.12), "main"),
        dict(hat=(1.6, 0.24), eyes=(1.25, 0.44, 0.18)),
    ),
    "snowman": (
        [
            (SPHERE, (0, 0.45, 0), (0.55, 0.46, 0.52), "main", 0, 1),
            (SPHERE, (0, 1.12, 0), (0.4, 0.36, 0.38), "main", 0, 1),
            (SPHERE, (0, 1.66, 0), (0.3, 0.28, 0.28), "head", 0, 0),
            (NOSE, (0, 1.64, 0.38), (0.07, 0.16, 0.07), "beak", 0, 0),
        ]
        + face(1.74, 0.26, 0.11, 0.055)
        + pair(CYLINDER, (0.58, 1.2, 0), (0.04, 0.3, 0.04), "dark", -50),
        dict(hat=(1.9, 0.24), neck=(1.42, 0, 0.3), eyes=(1.74, 0.27, 0.11)),
    ),
    "cactus": (
        [
            (SPHERE, (0, 1.1, 0), (0.32, 0.95, 0.32), "main", 0, 1),
            (CYLINDER, (0, 0.24, 0), (0.42, 0.24, 0.42), "limb", 0, 0),
        ]
        + pair(SPHERE, (0.4, 1.0, 0), (0.28, 0.13, 0.13), "main")
        + pair(SPHERE, (0.6, 1.25, 0), (0.13, 0.34, 0.13), "main")
        + face(1.3, 0.3, 0.11),
        dict(hat=(1.95, 0.2), eyes=(1.3, 0.3, 0.11)),
    ),
}


def accessory_parts(cls, kind, colour):
    """The parts of a hat, scarf or glasses on this class; none if it has no place for them."""
    anchors = CLASSES[cls][1]
    if kind == "hat" and "hat" in anchors:
        y, r = anchors["hat"]
        z = 0.3 if cls == "duck" else 0.02
        return [(CYLINDER, (0, y + 0.02, z), (r * 1.55, 0.035, r * 1.55), colour, 0, 0),
                (CYLINDER, (0, y + 0.2, z), (r, 0.2, r), colour, 0, 0)]
    if kind == "scarf" and "neck" in anchors:
        y, z, r = anchors["neck"]
        return [(CYLINDER, (0, y, z), (r * 1.12, 0.1, r * 1.12), colour, 0, 0),
                (BOX, (0.16, y - 0.22, z + r * 1.02), (0.09, 0.22, 0.05), colour, 0, 0)]
    if kind == "glasses" and "eyes" in anchors:
        y, z, d = anchors["eyes"]
        return [*pair(SPHERE, (d * 1.1, y, z + 0.04), (0.15, 0.14, 0.06), colour),
                (BOX, (0, y, z + 0.03), (d, 0.03, 0.03), colour, 0, 0)]
    return []
