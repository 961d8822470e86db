// What is computed channel by channel.
#pragma once

#include "call.h"

namespace ops {

enum Function { silu, gelu, gelu_tanh, quick_gelu, relu, relu2, tanh_, sigmoid_, softplus };

inline F32 sigmoid(F32 x) { return 1.0f / (1.0f + exponential(-x)); }

inline F32 hyperbolic_tangent(F32 x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }

template <class Of>
inline F32 each(F32 x, Of of) {
    for (int i = 0; i < LANES; ++i) x[i] = of(x[i]);
    return x;
}

inline F32 apply(Function fn, F32 x) {
    switch (fn) {
        case silu: return x * sigmoid(x);
        case gelu: return x * each(x * 0.70710678f, [](float v) {
            return 0.5f * (1 + std::erf(v));
        });
        case gelu_tanh:
            return x * sigmoid(1.5957691216f * (x + 0.044715f * x * x * x));
        case quick_gelu: return x * sigmoid(1.702f * x);
        case relu: return x < 0.0f ? F32{} : x;
        case relu2: return x < 0.0f ? F32{} : x * x;
        case tanh_: return each(x, [](float v) { return std::tanh(v); });
        case sigmoid_: return sigmoid(x);
        case softplus: return each(x, [](float v) {
            return v > 20 ? v : std::log1p(std::exp(v));
        });
    }
    return x;
}

// Calls `of(row, at, n)`, n of at most 16 channels from `at` on; stores what it returns.
template <class Of>
inline void pointwise(Call& call, Rows y, const Of& of) {
    call.each_row(y.width, [&](int64_t row) {
        for (int at = 0; at < y.width; at += LANES) {
            int n = std::min(LANES, y.width - at);
            store_some(y[row] + at, of(row, at, n), n);
        }
    });
}

inline void add(Call& call, Rows y, Rows a, Rows b) {
    pointwise(call, y, [&](int64_t row, int at, int n) {
        return load_some(a[row] + at, n) + load_some(b[row] + at, n);
    });
}

inline void mul(Call& call, Rows y, Rows a, Rows b) {
    pointwise(call, y, [&](int64_t row, int at, int n) {
        return load_some(a[row] + at, n) * load_some(b[row] + at, n);
    });
}

struct Fn {
    Function fn;
};

inline void activation(Call& call, Rows y, Rows x, Fn with) {
    pointwise(call, y, [&](int64_t row, int at, int n) {
        return apply(with.fn, load_some(x[row] + at, n));
    });
}

inline void act_mul(Call& call, Rows y, Rows gate_up, Fn with) {
    pointwise(call, y, [&](int64_t row, int at, int n) {
        const float* gate = gate_up[row] + at;
        F32 opened = apply(with.fn, load_some(gate, n));
        return opened * load_some(gate + y.width, n);
    });
}

struct Scale {
    float factor;
    bool rounded = false;
};

inline void scale(Call& call, Rows y, Rows x, Scale with) {
    float factor = with.factor;
    if (with.rounded) {
        Element all[LANES];
        store(all, broadcast(factor));
        factor = widen(all[0]);
    }
    pointwise(call, y, [&](int64_t row, int at, int n) {
        return load_some(x[row] + at, n) * factor;
    });
}

struct Clamp {
    float limit;
};

inline void clamp(Call& call, Rows y, Rows x, Clamp with) {
    F32 high = broadcast(with.limit);
    pointwise(call, y, [&](int64_t row, int at, int n) {
        F32 v = load_some(x[row] + at, n);
        return v == v ? minimum(maximum(v, -high), high) : v;
    });
}

struct SoftCap {
    float cap;
};

inline void soft_cap(Call& call, Rows y, Rows x, SoftCap with) {
    pointwise(call, y, [&](int64_t row, int at, int n) {
        return with.cap * hyperbolic_tangent(load_some(x[row] + at, n) / with.cap);
    });
}

// A gate for each channel of x, or for each head.
inline void gate(Call& call, Rows y, Rows x, Rows g, Fn with) {
    Function fn = with.fn;
    int width = x.width / g.width;
    if (width == 1) {
        pointwise(call, y, [&](int64_t row, int at, int n) {
            F32 opened = apply(fn, load_some(g[row] + at, n));
            return load_some(x[row] + at, n) * opened;
        });
        return;
    }
    call.each_row(x.width, [&](int64_t row) {
        for (int head = 0; head < g.width; ++head) {
            float opened = apply(fn, broadcast(g[row][head]))[0];
            for (int at = head * width; at < (head + 1) * width; ++at) {
                y[row][at] = x[row][at] * opened;
            }
        }
    });
}

template <int N>
inline void add_bias(Call& call, Rows y, Rows x, Vector<N> bias) {
    int width = x.width / N;
    call.each_row(x.width, [&](int64_t row) {
        for (int at = 0; at < x.width; ++at) {
            y[row][at] = x[row][at] + widen(bias.data[at / width]);
        }
    });
}

template <int N>
inline void scale_by(Call& call, Rows y, Rows x, Vector<N> weight) {
    call.each_row(x.width, [&](int64_t row) {
        for (int at = 0; at < x.width; ++at) {
            y[row][at] = x[row][at] * widen(weight.data[N == 1 ? 0 : at]);
        }
    });
}

// Every channel times the number of its token.
inline void scale_heads(Call& call, Rows y, Rows x, Rows factor) {
    pointwise(call, y, [&](int64_t row, int at, int n) {
        return load_some(x[row] + at, n) * factor[row][0];
    });
}

inline void concat(Call& call, Rows y, Rows a, Rows b) {
    call.each_row(y.width, [&](int64_t row) {
        std::memcpy(y[row], a[row], a.width * sizeof(float));
        std::memcpy(y[row] + a.width, b[row], b.width * sizeof(float));
    });
}

inline void copy(Call& call, Rows y, Rows x) {
    call.each_row(y.width, [&](int64_t row) {
        std::memcpy(y[row], x[row], x.width * sizeof(float));
    });
}

inline void zeros_like(Call& call, Rows y, Rows) {
    call.each_row(y.width, [&](int64_t row) {
        std::memset(y[row], 0, y.width * sizeof(float));
    });
}

}  // namespace ops
