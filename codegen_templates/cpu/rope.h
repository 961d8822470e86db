// Rotary position embedding.
#pragma once

#include "call.h"

namespace ops {

// cos and sin of every position times the frequencies that reference.py computes.
struct RopeTable {
    const float* frequencies;
    float factor = 1;
};

inline void rope_table(Call& call, Rows cos, Rows sin, const int64_t* pos,
                       RopeTable with) {
    call.each_row(cos.width * 16, [&](int64_t row) {
        for (int i = 0; i < cos.width; ++i) {
            float angle = float(pos[row]) * with.frequencies[i];
            cos[row][i] = std::cos(angle) * with.factor;
            sin[row][i] = std::sin(angle) * with.factor;
        }
    });
}

enum Style { half, interleaved };

struct Rope {
    Style style;
    int sections = 1;
    int first = 0;
    bool reverse = false;
};

// Turns 2 · pairs channels by as many angles as there are pairs.
inline void turn(float* y, const float* x, const float* cos, const float* sin, int pairs,
                 Style style, float sign) {
    int next = style == half ? 1 : 2, apart = style == half ? pairs : 1;
    for (int i = 0; i < pairs; ++i) {
        float a = x[i * next], b = x[i * next + apart], s = sin[i] * sign;
        y[i * next] = a * cos[i] - b * s;
        y[i * next + apart] = b * cos[i] + a * s;
    }
}

inline void rope(Call& call, Rows y, Rows x, Rows cos, Rows sin, Rope with) {
    int width = x.head_width(), pairs = cos.width / with.sections;
    float sign = with.reverse ? -1 : 1;
    call.each_row(x.width, [&](int64_t row) {
        for (int head = 0; head < x.heads; ++head) {
            const float* from = x[row] + head * width;
            float* to = y[row] + head * width;
            int end = with.first + 2 * cos.width;
            std::memcpy(to, from, with.first * sizeof(float));
            for (int s = 0; s < with.sections; ++s) {
                int at = with.first + 2 * pairs * s;
                turn(to + at, from + at, cos[row] + pairs * s, sin[row] + pairs * s, pairs,
                     with.style, sign);
            }
            std::memcpy(to + end, from + end, (width - end) * sizeof(float));
        }
    });
}

}  // namespace ops
