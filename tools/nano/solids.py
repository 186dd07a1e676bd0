"""Unit solids cut by parallel rays: where the ray leaves towards the viewer, and the normal.

Rays are o + t d with o [3, n] and one direction d [3]; t grows towards the viewer, so the visible
point is the LARGEST t inside the solid.
"""
import numpy as np

SPHERE, BOX, CYLINDER, CONE, DOME, PYRAMID = "sphere", "box", "cylinder", "cone", "dome", "pyramid"
#: A cylinder along x, a cone along z, and a wedge that opens towards -z (the tail of a fish).
WHEEL, NOSE, WEDGE = "wheel", "nose", "wedge"
MISS = -1e9
AXES = np.eye(3, dtype=np.float32)


class Convex:
    """The intersection of half spaces and quadrics along the rays: an interval of t for each."""

    def __init__(self, o, d):
        n = o.shape[1]
        self.o, self.d = o, d
        self.near = np.full(n, -1e9, np.float32)
        self.far = np.full(n, 1e9, np.float32)
        self.normal = np.zeros((3, n), np.float32)

    def half_space(self, a, b):
        """Keeps a . q <= b."""
        slope, room = float(a @ self.d), b - a @ self.o
        if abs(slope) < 1e-6:
            self.far = np.where(room < 0, MISS, self.far)
            return
        t = room / slope
        if slope > 0:
            closer = t < self.far
            self.far = np.where(closer, t, self.far)
            self.normal[:, closer] = a[:, None]
        else:
            self.near = np.maximum(self.near, t)

    def quadric(self, a, b, c, gradient):
        """Keeps a t^2 + b t + c <= 0; `gradient` gives the normal at a point."""
        disc = b * b - 4 * a * c
        hit = disc > 0
        root = np.sqrt(np.maximum(disc, 0))
        leave, enter = (-b + root) / (2 * a), (-b - root) / (2 * a)
        closer = hit & (leave < self.far)
        self.far = np.where(hit, np.where(closer, leave, self.far), MISS)
        self.near = np.where(hit, np.maximum(self.near, enter), self.near)
        if closer.any():
            self.normal[:, closer] = gradient(self.o[:, closer] + self.d[:, None] * leave[closer])

    def result(self):
        """(t, normal); t is MISS where the ray misses."""
        return np.where(self.near < self.far, self.far, MISS), self.normal


def cone(o, d, axis):
    """A cone with its apex at +1 on `axis` and a base of radius 1 at -1."""
    k = axis
    i, j = [other for other in range(3) if other != k]
    # sqrt(qi^2 + qj^2) <= (1 - qk) / 2; qk < 1 removes the mirror cone.
    a = d[i] ** 2 + d[j] ** 2 - d[k] ** 2 / 4
    b = 2 * (o[i] * d[i] + o[j] * d[j]) + (1 - o[k]) * d[k] / 2
    c = o[i] ** 2 + o[j] ** 2 - (1 - o[k]) ** 2 / 4
    a = float(a) if abs(a) > 1e-5 else 1e-5
    disc = b * b - 4 * a * c
    root = np.sqrt(np.maximum(disc, 0))
    best = np.full(o.shape[1], MISS, np.float32)
    for sign in (1, -1):
        t = (-b + sign * root) / (2 * a)
        height = o[k] + t * d[k]
        best = np.where((disc > 0) & (height < 1) & (height > -1) & (t > best), t, best)
    normal = o + d[:, None] * best
    normal[k] = (1 - normal[k]) / 4
    if abs(d[k]) > 1e-6:
        t = (-1 - o[k]) / d[k]
        base = o + d[:, None] * t
        hit = (base[i] ** 2 + base[j] ** 2 < 1) & (t > best)
        best = np.where(hit, t, best)
        normal = np.where(hit, -AXES[k][:, None], normal)
    return best, normal


def hit(solid, o, d):
    """(t, normal) of the visible points of a unit solid."""
    if solid in (CONE, NOSE):
        return cone(o, d, 1 if solid == CONE else 2)
    body = Convex(o, d)
    if solid in (SPHERE, DOME):
        body.quadric(float(d @ d), 2 * (d @ o), (o * o).sum(0) - 1, lambda q: q)
        if solid == DOME:
            body.half_space(-AXES[1], 0.0)
    elif solid == BOX:
        for axis in AXES:
            body.half_space(axis, 1.0)
            body.half_space(-axis, 1.0)
    elif solid in (CYLINDER, WHEEL):
        i, j, k = (0, 2, 1) if solid == CYLINDER else (1, 2, 0)
        body.quadric(float(d[i] ** 2 + d[j] ** 2) + 1e-9, 2 * (o[i] * d[i] + o[j] * d[j]),
                     o[i] ** 2 + o[j] ** 2 - 1, lambda q: q * (1 - AXES[k])[:, None])
        body.half_space(AXES[k], 1.0)
        body.half_space(-AXES[k], 1.0)
    elif solid == PYRAMID:
        for i in (0, 2):
            for sign in (1, -1):
                body.half_space(sign * AXES[i] + 0.5 * AXES[1], 0.5)
        body.half_space(-AXES[1], 1.0)
    elif solid == WEDGE:
        for sign in (1, -1):
            body.half_space(sign * AXES[1] + 0.5 * AXES[2], 0.5)
            body.half_space(sign * AXES[0], 1.0)
        body.half_space(-AXES[2], 1.0)
    return body.result()
