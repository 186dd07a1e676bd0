// Which source pixel a destination pixel reads under a tap: the one idea behind all convolution kernels.
#pragma once
#include "common/export.cuh"

namespace conv2d {

// Extents of one call, as mod.rs has them.
struct Shape {
  int images;
  int h, w, c;       // image as stored: rows, columns, channels
  int kh, kw;        // kernel rows, columns
  int oh, ow, o;     // output rows, columns, channels
  int stride, top, left;
  int zoom;          // 1: the image is read as if enlarged twice by nearest neighbour (stride is 1 then)
};

// Forward gathers image pixels for output pixels; Data gathers output gradients for image pixels.
enum class Pass { Forward, Data };

// One gather. With stride s the pixels of Data fall into s*s classes (row and column modulo s); a class
// meets only every s-th tap, so no product with an inserted zero is ever formed.
struct View {
  int rows, cols;              // destination pixels of the class, in an image
  int step;                    // source rows between two destination rows
  int y, x;                    // source of destination (0, 0) under tap (0, 0)
  int taps_y, taps_x;
  int bound_y, bound_x;        // source extents; outside is zero
  int pitch, image;            // stored pixels in a source row, in a source image
  int channels;                // of the source
  int first_y, first_x, every; // destination pixel (i, j) of the class is (first + i every, ..)
  int dst_h, dst_w;            // destination extents
};

struct Offset {
  int y, x;
};

__device__ inline int ceil_div(int a, int b) { return (a + b - 1) / b; }

template <Pass P>
__device__ inline View view(const Shape& s, int klass) {
  if constexpr (P == Pass::Forward) {
    return {s.oh, s.ow, s.stride, -s.top, -s.left, s.kh, s.kw, s.h << s.zoom, s.w << s.zoom,
            s.w, s.h * s.w, s.c, 0, 0, 1, s.oh, s.ow};
  } else if (s.zoom) {  // both enlarged copies of a pixel: twice the taps along each axis
    return {s.h, s.w, 2, s.top, s.left, 2 * s.kh, 2 * s.kw, s.oh, s.ow,
            s.ow, s.oh * s.ow, s.o, 0, 0, 1, s.h, s.w};
  } else {
    const int ry = klass / s.stride, rx = klass % s.stride;
    const int u = (ry + s.top) % s.stride, v = (rx + s.left) % s.stride;  // first taps that meet it
    return {ceil_div(max(s.h - ry, 0), s.stride), ceil_div(max(s.w - rx, 0), s.stride), 1,
            (ry + s.top) / s.stride, (rx + s.left) / s.stride,
            ceil_div(max(s.kh - u, 0), s.stride), ceil_div(max(s.kw - v, 0), s.stride),
            s.oh, s.ow, s.ow, s.oh * s.ow, s.o, ry, rx, s.stride, s.h, s.w};
  }
}

// How far tap (u, v) of the view lies from tap (0, 0), in source pixels.
template <Pass P>
__device__ inline Offset shift(const Shape& s, int u, int v) {
  if constexpr (P == Pass::Forward) return {u, v};
  if (!s.zoom) return {-u, -v};
  const int second_y = u >= s.kh, second_x = v >= s.kw;  // the enlarged row 2y + 1, column 2x + 1
  return {second_y - (u - second_y * s.kh), second_x - (v - second_x * s.kw)};
}

// The kernel position (as u * kw + v) that tap (u, v) of the view multiplies with.
template <Pass P>
__device__ inline int kernel_tap(const Shape& s, const View& g, int u, int v) {
  if constexpr (P == Pass::Forward) return u * s.kw + v;
  if (s.zoom) return (u >= s.kh ? u - s.kh : u) * s.kw + (v >= s.kw ? v - s.kw : v);
  const int u0 = (g.first_y + s.top) % s.stride, v0 = (g.first_x + s.left) % s.stride;
  return (u0 + u * s.stride) * s.kw + v0 + v * s.stride;
}

// A destination pixel, ready to be shifted.
struct Pixel {
  int base;  // first stored pixel of its image; negative: there is no such destination
  int y, x;  // its source under tap (0, 0)
};

__device__ inline Pixel pixel(const View& g, int p, int count) {
  const int row = p / g.cols, j = p % g.cols, image = row / g.rows, i = row % g.rows;
  return {p < count ? image * g.image : -1, i * g.step + g.y, j * g.step + g.x};
}

// Stored number of the source pixel at `d` from a destination's first; negative outside the image.
__device__ inline int source(const View& g, int zoom, const Pixel& p, Offset d) {
  const int y = p.y + d.y, x = p.x + d.x;
  const bool inside = p.base >= 0 && unsigned(y) < unsigned(g.bound_y) && unsigned(x) < unsigned(g.bound_x);
  return inside ? p.base + (y >> zoom) * g.pitch + (x >> zoom) : -1;
}

// Stored number of destination pixel `p` of the class.
__device__ inline int destination(const View& g, int p) {
  const int row = p / g.cols, j = p % g.cols, image = row / g.rows, i = row % g.rows;
  return (image * g.dst_h + g.first_y + i * g.every) * g.dst_w + g.first_x + j * g.every;
}

// A three-digit number that is advanced by a fixed step without division: (u, v, c) of a reduction
// index over taps and channels, or (image, row, column) of a pixel.
struct Digits {
  int u, v, c;
};

struct Odometer {
  int mid, low;  // how many values the middle and the last digit have
  Digits step;

  __device__ Odometer(int mid_, int low_, int by) : mid(max(mid_, 1)), low(max(low_, 1)), step(at(by)) {}
  __device__ Digits at(int n) const { return {n / low / mid, n / low % mid, n % low}; }
  __device__ void advance(Digits& d) const {
    d.c += step.c, d.v += step.v, d.u += step.u;
    if (d.c >= low) d.c -= low, ++d.v;
    if (d.v >= mid) d.v -= mid, ++d.u;
  }
};

}  // namespace conv2d
