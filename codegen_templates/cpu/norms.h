// Norms over the last dimension: of a row, or of each of its heads.
#pragma once

#include "call.h"

namespace ops {

enum Where { input, f32 };  // what a norm's weight multiplies: the cast value, or fp32

inline float sum_of_squares(const float* x, int n) {
    F32 sums = {};
    for (int at = 0; at < n; at += LANES) {
        F32 part = load_some(x + at, n - at);
        sums += part * part;
    }
    return sum(sums);
}

struct RmsNorm {
    float eps;
    Where weight_in = input;  // the same here: nothing is rounded in between
    bool unit_offset = false;
};

inline void rms_norm(Call& call, Rows y, Rows x, const Element* weight, RmsNorm with) {
    int width = x.head_width();
    call.each_row(x.width, [&](int64_t row) {
        for (int head = 0; head < x.heads; ++head) {
            const float* from = x[row] + head * width;
            float* to = y[row] + head * width;
            float scale = 1 / std::sqrt(sum_of_squares(from, width) / width + with.eps);
            for (int at = 0; at < width; at += LANES) {
                int left = width - at;
                F32 v = load_some(from + at, left) * scale;
                if (weight) {
                    F32 gain = load_some(weight + at, left);
                    v *= with.unit_offset ? gain + 1.0f : gain;
                }
                store_some(to + at, v, left);
            }
        }
    });
}

struct RmsNormalize {
    float eps;
};

inline void rms_normalize(Call& call, Rows y, Rows x, RmsNormalize with) {
    rms_norm(call, y, x, nullptr, {.eps = with.eps});
}

struct LayerNorm {
    const Element* bias = nullptr;
    float eps;
    bool unit_offset = false;
};

inline void layer_norm(Call& call, Rows y, Rows x, const Element* weight,
                       LayerNorm with) {
    int width = x.head_width();
    call.each_row(x.width, [&](int64_t row) {
        for (int head = 0; head < x.heads; ++head) {
            const float* from = x[row] + head * width;
            float* to = y[row] + head * width;
            double total = 0;
            for (int at = 0; at < width; ++at) total += from[at];
            float mean = float(total / width), squares = 0;
            for (int at = 0; at < width; ++at) {
                squares += (from[at] - mean) * (from[at] - mean);
            }
            float scale = 1 / std::sqrt(squares / width + with.eps);
            for (int at = 0; at < width; ++at) {
                float gain = weight ? widen(weight[at]) + with.unit_offset : 1.0f;
                float shift = with.bias ? widen(with.bias[at]) : 0.0f;
                to[at] = (from[at] - mean) * scale * gain + shift;
            }
        }
    });
}

struct LayerNormalize {
    float eps;
};

inline void layer_normalize(Call& call, Rows y, Rows x, LayerNormalize with) {
    layer_norm(call, y, x, nullptr, {.eps = with.eps});
}

}  // namespace ops
