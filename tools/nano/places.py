"""The twelve backgrounds: a function each, from a view (horizon, random generator) to a picture."""
import numpy as np

SIZE = 128
Y, X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) + 0.5


def rgb(*values):
    """A colour."""
    return np.array(values, np.float32)


def blend(a, b, t):
    """From colour `a` (t = 0) to `b` (t = 1)."""
    return rgb(*a) * (1 - t[..., None]) + rgb(*b) * t[..., None]


def noise(rng, cells):
    """Smooth noise of about unit variance with so many cells a side."""
    g = rng.standard_normal((cells + 1, cells + 1)).astype(np.float32)
    p = np.linspace(0, cells - 1e-3, SIZE, dtype=np.float32)
    i = p.astype(int)
    t = p - i
    g = g[i] * (1 - t)[:, None] + g[i + 1] * t[:, None]
    return g[:, i] * (1 - t) + g[:, i + 1] * t


class View:
    """The horizon at row `horizon` and what follows from it."""

    def __init__(self, horizon, rng):
        self.horizon, self.rng = horizon, rng
        self.up = np.clip(Y / horizon, 0, 1)
        self.down = np.clip((Y - horizon) / (SIZE - horizon), 0, 1)
        self.ground = Y > horizon
        self.noise = noise(rng, 8)

    def two(self, sky0, sky1, ground0, ground1, rough=5):
        """A sky and a rough ground, each a gradient from top to bottom."""
        ground = blend(ground0, ground1, self.down) + (self.noise * rough)[..., None]
        return np.where(self.ground[..., None], ground, blend(sky0, sky1, self.up))


def paint(picture, where, colour):
    """Replaces the pixels in `where`."""
    return np.where(where[..., None], colour, picture)


def beach(v):
    """Sky, sea and sand."""
    sand = v.two((95, 175, 235), (190, 225, 245), (225, 205, 150), (238, 215, 165), 6)
    sea = (Y > v.horizon - 16) & (Y <= v.horizon + 2 * np.sin(X / 9 + v.horizon))
    depth = np.clip((Y - v.horizon + 16) / 16, 0, 1)
    return paint(sand, sea, blend((30, 115, 175), (80, 175, 200), depth))


def grass(v):
    """A meadow under clouds."""
    meadow = v.two((120, 190, 245), (205, 230, 250), (85, 165, 60), (60, 140, 45), 9)
    clouds = (noise(v.rng, 5) > 0.8) & ~v.ground & (Y < v.horizon - 8)
    return paint(meadow, clouds, 250.0)


def snow(v):
    """Snow under a gray sky."""
    return v.two((150, 170, 195), (205, 215, 228), (235, 240, 248), (222, 230, 244), 4)


def wood(v):
    """A plank floor before a plain wall."""
    room = v.two((222, 212, 195), (212, 200, 182), (165, 110, 62), (185, 125, 72), 5)
    across = (X - SIZE / 2) / (0.6 + v.down)
    gaps = (np.abs((across / 16) % 1 - 0.5) > 0.45) & v.ground
    return paint(room, gaps, room * 0.72)


def city(v):
    """Houses with lit windows at night."""
    street = v.two((12, 14, 40), (35, 30, 75), (48, 46, 56), (66, 64, 72), 3)
    heights = v.rng.uniform(0.25, 0.9, 9)[(X // 16).astype(int)] * v.horizon
    houses = (Y > v.horizon - heights) & ~v.ground
    lamps = v.rng.random((17, 17))[(Y // 8).astype(int), (X // 8).astype(int)] > 0.45
    windows = (X % 8 > 2.5) & (X % 8 < 6) & (Y % 8 > 2.5) & (Y % 8 < 6) & lamps
    return paint(paint(street, houses, rgb(28, 28, 48)), houses & windows, rgb(250, 215, 110))


def blue_wall(v):
    """A blue wall."""
    return v.two((70, 120, 200), (85, 135, 215), (175, 180, 190), (195, 200, 208), 3)


def pink_wall(v):
    """A pink wall."""
    return v.two((240, 165, 190), (245, 180, 200), (205, 190, 195), (220, 208, 212), 3)


def desert(v):
    """Sand dunes at sunset."""
    crest = v.horizon - 6 - 7 * np.sin(X / 22 + v.horizon)
    sand = v.two((250, 195, 120), (255, 225, 170), (215, 145, 75), (225, 160, 90), 5)
    return paint(sand, (Y > crest) & ~v.ground, rgb(195, 120, 60))


def forest(v):
    """Trunks and leaves."""
    wood_floor = v.two((70, 115, 75), (110, 150, 95), (70, 85, 40), (85, 95, 50), 8)
    trunks = ((X + v.rng.uniform(0, 26) + 2 * np.sin(Y / 20)) % 26 < 8) & (Y < v.horizon + 3)
    trees = paint(wood_floor, trunks, rgb(75, 52, 35) + (v.noise * 6)[..., None])
    return paint(trees, Y < 18 + v.noise * 6, rgb(35, 85, 45))


def moon(v):
    """Gray dust under stars."""
    dust = v.two((5, 5, 15), (15, 15, 35), (150, 150, 155), (125, 125, 132), 12)
    stars = np.zeros((SIZE, SIZE), bool)
    for _ in range(14):
        x, y = v.rng.integers(2, SIZE - 3), v.rng.integers(2, max(int(v.horizon) - 3, 4))
        stars[y:y + 2, x:x + 2] = True
    return paint(dust, stars & ~v.ground, 245.0)


def tiles(v):
    """A checkered floor before a plain wall."""
    room = v.two((235, 225, 190), (225, 212, 175), (225, 225, 225), (235, 235, 235), 0)
    dark = (np.floor((X - SIZE / 2) / (14 + 22 * v.down)) + np.floor(v.down * 4)) % 2 == 0
    return paint(room, dark & v.ground, rgb(85, 90, 105))


def white(v):
    """Almost nothing."""
    return np.full((SIZE, SIZE, 3), 255.0, np.float32) - 3 * v.down[..., None]


#: name -> (the words of the caption, painter)
PLACES = {
    "beach": ("on the beach", beach), "grass": ("on the grass", grass),
    "snow": ("in the snow", snow), "wood": ("on a wooden floor", wood),
    "city": ("in a city at night", city), "blue": ("in front of a blue wall", blue_wall),
    "pink": ("in front of a pink wall", pink_wall), "desert": ("in the desert", desert),
    "forest": ("in a forest", forest), "moon": ("on the moon", moon),
    "tiles": ("on a checkered floor", tiles), "white": ("simple background", white),
}
