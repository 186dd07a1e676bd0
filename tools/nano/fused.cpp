// Group norm, with SiLU or without, forwards and backwards on bf16 tensors in channels-last order
// [n, pixels, channels]: what PyTorch is slow at on a CPU. Compiled and called by fused.py.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

using bf16 = uint16_t;

static inline float wide(bf16 h) {
    uint32_t bits = uint32_t(h) << 16;
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}

static inline bf16 narrow(float f) {  // rounds to nearest even; no NaN reaches it
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    return bf16((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Sums of `channels` over the channels of each group, written back to every channel.
static void spread(float *values, long channels, long groups) {
    long size = channels / groups;
    for (long g = 0; g < groups; g++) {
        float sum = 0;
        for (long c = 0; c < size; c++) sum += values[g * size + c];
        for (long c = 0; c < size; c++) values[g * size + c] = sum;
    }
}

// Mean and 1 / standard deviation of one picture's groups, one value a channel.
static void moments(const bf16 *x, long pixels, long channels, long groups, float eps,
                    float *mean, float *rstd) {
    float count = float(pixels * (channels / groups));
    for (long c = 0; c < channels; c++) mean[c] = rstd[c] = 0;
    for (long p = 0; p < pixels; p++)
        for (long c = 0; c < channels; c++) mean[c] += wide(x[p * channels + c]);
    spread(mean, channels, groups);
    for (long c = 0; c < channels; c++) mean[c] /= count;
    for (long p = 0; p < pixels; p++)
        for (long c = 0; c < channels; c++) {
            float d = wide(x[p * channels + c]) - mean[c];
            rstd[c] += d * d;
        }
    spread(rstd, channels, groups);
    for (long c = 0; c < channels; c++) rstd[c] = 1 / std::sqrt(rstd[c] / count + eps);
}

extern "C" void norm_forward(const bf16 *x, const float *weight, const float *bias, bf16 *y,
                             long n, long pixels, long channels, long groups, float eps, long silu) {
    std::vector<float> mean(channels), rstd(channels);
    float *m = mean.data(), *r = rstd.data();
    for (long i = 0; i < n; i++, x += pixels * channels, y += pixels * channels) {
        moments(x, pixels, channels, groups, eps, m, r);
        for (long c = 0; c < channels; c++) {  // y = x * r + m
            r[c] *= weight[c];
            m[c] = bias[c] - m[c] * r[c];
        }
        for (long p = 0; p < pixels; p++)
            for (long c = 0; c < channels; c++) {
                float v = wide(x[p * channels + c]) * r[c] + m[c];
                y[p * channels + c] = narrow(silu ? v / (1 + std::exp(-v)) : v);
            }
    }
}

extern "C" void norm_backward(const bf16 *x, const bf16 *dy, const float *weight,
                              const float *bias, bf16 *dx, float *dweight, float *dbias, long n, long pixels,
                              long channels, long groups, float eps, long silu) {
    std::vector<float> rows(4 * channels), kept(pixels * channels);
    float *m = rows.data(), *r = m + channels, *sum = r + channels, *dot = sum + channels;
    float *dz = kept.data();
    float count = float(pixels * (channels / groups));
    long size = pixels * channels;
    for (long i = 0; i < n; i++, x += size, dy += size, dx += size) {
        moments(x, pixels, channels, groups, eps, m, r);
        for (long c = 0; c < channels; c++) sum[c] = dot[c] = 0;
        for (long p = 0; p < pixels; p++)
            for (long c = 0; c < channels; c++) {
                float h = (wide(x[p * channels + c]) - m[c]) * r[c];
                float d = wide(dy[p * channels + c]);
                if (silu) {
                    float v = h * weight[c] + bias[c], s = 1 / (1 + std::exp(-v));
                    d *= s * (1 + v * (1 - s));
                }
                dz[p * channels + c] = d;
                sum[c] += d;
                dot[c] += d * h;
            }
        for (long c = 0; c < channels; c++) {
            dbias[c] += sum[c];
            dweight[c] += dot[c];
            sum[c] *= weight[c];
            dot[c] *= weight[c];
        }
        spread(sum, channels, groups);
        spread(dot, channels, groups);
        for (long c = 0; c < channels; c++) {
            sum[c] /= count;
            dot[c] /= count;
        }
        for (long p = 0; p < pixels; p++)
            for (long c = 0; c < channels; c++) {
                float h = (wide(x[p * channels + c]) - m[c]) * r[c];
                float d = dz[p * channels + c] * weight[c] - sum[c] - h * dot[c];
                dx[p * channels + c] = narrow(r[c] * d);
            }
    }
}
