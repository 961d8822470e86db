// Short convolutions and scans, whose states go from token to token.
#pragma once

#include "elementwise.h"
#include "norms.h"

// What is kept for each row of the batch, [rows, a, b, c].
template <class T>
struct Kept3 {
    T* data;
    int a, b, c;
    T* row(int64_t batch) const { return data + batch * a * b * c; }
};

// What a layer keeps for each row, by its pointer.
template <class T, int A, int B, int C = 1>
struct PerRow {
    T* data;
    operator Kept3<T>() const { return {data, A, B, C}; }
};

namespace ops {

struct ShortConv {
    const Element* bias = nullptr;
    int fn = -1;
};

// Tells whether a token is padding, which leaves states alone.
inline bool is_padding(const Call& call, int64_t batch, int64_t token) {
    return call.start && call.tokens > 1 && call.past + token < call.start[batch];
}

// Convolution of 16 channels over the tokens of a row. What is kept is a ring: the token
// in slot s lies in column s % width.
inline void conv_strip(const Call& call, Rows y, Rows x, const Element* w,
                       Kept3<Element> kept, const ShortConv& with, int64_t batch, int at) {
    int n = std::min(LANES, x.width - at), width = kept.b;
    auto* seen = scratch<float>(size_t(width) * 2 * LANES);  // a ring as well
    float* taps = seen + width * LANES;
    Element* own = kept.row(batch) + int64_t(at) * width;
    std::fill(seen, seen + 2 * width * LANES, 0.0f);
    for (int i = 0; i < n; ++i) {
        for (int j = 0; j < width; ++j) {
            seen[j * LANES + i] = widen(own[i * width + j]);
            taps[j * LANES + i] = widen(w[int64_t(at + i) * width + j]);
        }
    }
    F32 bias = {};
    if (with.bias) bias = load_some(with.bias + at, n);
    for (int64_t token = 0; token < call.tokens; ++token) {
        int64_t row = batch * call.tokens + token, slot = call.past + token;
        bool padding = is_padding(call, batch, token);
        F32 now = {};
        if (!padding) now = load_some(x[row] + at, n);
        store(seen + slot % width * LANES, now);
        F32 total = bias;
        for (int j = 0; j < width; ++j) {
            total += load(taps + j * LANES) * load(seen + (slot + 1 + j) % width * LANES);
        }
        if (with.fn >= 0) total = apply(Function(with.fn), total);
        if (padding) total = F32{};
        store_some(y[row] + at, total, n);
    }
    for (int j = 0; j < width; ++j) {
        Element column[LANES];
        store(column, load(seen + j * LANES));
        for (int i = 0; i < n; ++i) own[i * width + j] = column[i];
    }
}

inline void short_conv(Call& call, Rows y, Rows x, const Element* w, Kept3<Element> kept,
                       ShortConv with = {}) {
    int64_t strips = (x.width + LANES - 1) / LANES;
    int64_t grain = std::max<int64_t>(1, 64 / call.tokens);
    call.parallel(call.batch * strips, grain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            conv_strip(call, y, x, w, kept, with, i / strips, int(i % strips) * LANES);
        }
    });
}

struct Scan {
    Rows beta = {};
    float scale = 1;
};

// Of a state [keys, width] N vectors' columns from `at` on move on by a token: they decay
// by `left`, are told v (with a strength what v has beyond what is kept at k), and asked q.
template <int N>
inline void scan_columns(float* state, int keys, int width, const float* left,
                         const float* q, const float* k, const float* v, float strength,
                         bool corrects, float* y) {
    F32 told[N], answer[N] = {};
    for (int n = 0; n < N; ++n) told[n] = load(v + n * LANES);
    if (corrects) {
        F32 known[N] = {};
        for (int i = 0; i < keys; ++i) {
            float weight = k[i] * left[i];
            for (int n = 0; n < N; ++n) {
                known[n] += load(state + int64_t(i) * width + n * LANES) * weight;
            }
        }
        for (int n = 0; n < N; ++n) told[n] = (told[n] - known[n]) * strength;
    }
    for (int i = 0; i < keys; ++i) {
        for (int n = 0; n < N; ++n) {
            float* at = state + int64_t(i) * width + n * LANES;
            F32 now = load(at) * left[i] + told[n] * k[i];
            store(at, now);
            answer[n] += now * q[i];
        }
    }
    for (int n = 0; n < N; ++n) store(y + n * LANES, answer[n]);
}

// A head's state over the tokens of a row; a width that fills no vectors is copied.
inline void scan_head(const Call& call, Rows y, Rows q, Rows k, Rows v, Rows g,
                      float* state, int keys, int width, int64_t batch, int head,
                      int heads, int at, int n, const Scan& with) {
    int group = head / (heads / (k.width / keys));
    bool each = g.width != heads;
    int whole = (n + LANES - 1) / LANES * LANES;
    auto* left = scratch<float>(keys + 2 * whole + size_t(keys) * whole);
    float *told = left + keys, *answer = told + whole, *own = answer + whole;
    bool copied = n != whole;
    for (int i = 0; copied && i < keys; ++i) {
        for (int j = 0; j < whole; ++j) own[i * whole + j] = j < n ? state[i * width + at + j] : 0;
    }
    for (int64_t token = 0; token < call.tokens; ++token) {
        int64_t row = batch * call.tokens + token;
        float* to = y[row] + head * width + at;
        if (is_padding(call, batch, token)) {
            std::fill(to, to + n, 0.0f);
            continue;
        }
        for (int i = 0; i < keys; ++i) {
            left[i] = i && !each ? left[0] : std::exp(g[row][each ? head * keys + i : head]);
        }
        for (int j = 0; j < whole; ++j) told[j] = j < n ? v[row][head * width + at + j] : 0;
        float strength = with.beta.data ? with.beta[row][head] : 1;
        auto move = [&]<int N>(float* from, int stride) {
            scan_columns<N>(from, keys, stride, left, q[row] + group * keys,
                            k[row] + group * keys, told, strength, with.beta.data, answer);
        };
        float* from = copied ? own : state + at;
        int stride = copied ? whole : width;
        if (whole == 4 * LANES) move.template operator()<4>(from, stride);
        else if (whole == 2 * LANES) move.template operator()<2>(from, stride);
        else move.template operator()<1>(from, stride);
        for (int j = 0; j < n; ++j) to[j] = answer[j] * with.scale;
    }
    for (int i = 0; copied && i < keys; ++i) {
        for (int j = 0; j < n; ++j) state[i * width + at + j] = own[i * whole + j];
    }
}

inline void scan(Call& call, Rows y, Rows q, Rows k, Rows v, Rows g, Kept3<float> kept,
                 Scan with = {}) {
    int heads = kept.a, keys = kept.b, width = kept.c;
    int step = width % (4 * LANES) == 0 ? 4 * LANES : width % (2 * LANES) == 0 ? 2 * LANES
                                                                               : LANES;
    int strips = (width + step - 1) / step;
    call.parallel(call.batch * heads * strips, 1, [&](int64_t i, int64_t) {
        int at = int(i % strips) * step, head = int(i / strips % heads);
        int64_t batch = i / strips / heads;
        float* state = kept.row(batch) + int64_t(head) * keys * width;
        scan_head(call, y, q, k, v, g, state, keys, width, batch, head, heads, at,
                  std::min(step, width - at), with);
    });
}

// A recurrence of each channel by itself, of N numbers.
inline void selective_scan(Call& call, Rows y, Rows v, Rows step, Rows k, Rows q,
                           const float* a_log, const float* skip, Kept3<float> kept) {
    int channels = kept.a, n = kept.b;
    auto work = [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            int64_t batch = i / channels, channel = i % channels;
            float* state = kept.row(batch) + channel * n;
            for (int64_t token = 0; token < call.tokens; ++token) {
                int64_t row = batch * call.tokens + token;
                bool padding = is_padding(call, batch, token);
                float told = padding ? 0 : v[row][channel], size = step[row][channel];
                F32 answer = {};
                for (int at = 0; at < n; at += LANES) {
                    int some = std::min(LANES, n - at);
                    F32 rate = exponential(load_some(a_log + channel * n + at, some));
                    F32 now = exponential(-rate * size) * load_some(state + at, some) +
                              load_some(k[row] + at, some) * (told * size);
                    store_some(state + at, now, some);
                    answer += now * load_some(q[row] + at, some);
                }
                y[row][channel] = sum(answer) + skip[channel] * told;
            }
        }
    };
    int64_t grain = std::max<int64_t>(1, 4096 / (n * call.tokens));
    call.parallel(call.batch * channels, grain, work);
}

struct L2Normalize {
    float eps;
};

inline void l2_normalize(Call& call, Rows y, Rows x, L2Normalize with) {
    int width = x.head_width();
    call.each_row(x.width, [&](int64_t row) {
        for (int head = 0; head < x.heads; ++head) {
            const float* from = x[row] + head * width;
            float scale = 1 / std::sqrt(sum_of_squares(from, width) + with.eps);
            for (int at = 0; at < width; ++at) y[row][head * width + at] = from[at] * scale;
        }
    });
}

struct StepSize {
    const float* bias = nullptr;
    float low = 0, high = std::numeric_limits<float>::infinity();
};

inline void step_size(Call& call, Rows y, Rows x, StepSize with = {}) {
    pointwise(call, y, [&](int64_t row, int at, int n) {
        F32 v = load_some(x[row] + at, n);
        if (with.bias) v += load_some(with.bias + at, n);
        F32 soft = apply(softplus, v);
        F32 bounded = minimum(maximum(soft, broadcast(with.low)), broadcast(with.high));
        return soft == soft ? bounded : soft;
    });
}

template <int HEADS>
inline void decay(Call& call, Rows y, Rows step, ExactVector<HEADS> a_log) {
    int width = y.width / HEADS;
    call.each_row(y.width, [&](int64_t row) {
        for (int at = 0; at < y.width; ++at) {
            y[row][at] = -std::exp(a_log.data[at / width]) * step[row][at];
        }
    });
}

struct BoundedDecay {
    const float* bias = nullptr;
    float floor;
};

template <int HEADS>
inline void bounded_decay(Call& call, Rows y, Rows x, ExactVector<HEADS> a_log,
                          BoundedDecay with) {
    int width = y.width / HEADS;
    call.each_row(y.width * 8, [&](int64_t row) {
        for (int at = 0; at < y.width; ++at) {
            float v = x[row][at] + (with.bias ? with.bias[at] : 0);
            v *= std::exp(a_log.data[at / width]);
            y[row][at] = with.floor / (1 + std::exp(-v));
        }
    });
}

struct Sigmoid {
    float factor = 1;
};

inline void sigmoid(Call& call, Rows y, Rows x, Sigmoid with = {}) {
    pointwise(call, y, [&](int64_t row, int at, int n) {
        return sigmoid(load_some(x[row] + at, n)) * with.factor;
    });
}

// Every head times its number.
inline void scale_each(Call& call, Rows y, Rows x, Rows factor) {
    int width = y.width / factor.width;
    call.each_row(y.width, [&](int64_t row) {
        for (int at = 0; at < y.width; ++at) y[row][at] = x[row][at] * factor[row][at / width];
    });
}

template <int HEADS>
inline void add_skip(Call& call, Rows y, Rows from, Rows x, ExactVector<HEADS> weight) {
    int width = y.width / HEADS;
    call.each_row(y.width, [&](int64_t row) {
        for (int at = 0; at < y.width; ++at) {
            y[row][at] = from[row][at] + x[row][at] * weight.data[at / width];
        }
    });
}

enum Order { norm_first, gate_first };

struct GatedNorm {
    float eps;
    Function fn;
    int order = norm_first;
    int groups = 1;
    Where weight_in = input;  // the same here: nothing is rounded in between
};

// RMSNorm of equal parts and a gate; the weight is of a part, or of all.
inline void gated(Call& call, Rows y, Rows x, Rows z, const Element* weight, int weights,
                  const GatedNorm& with) {
    int width = x.width / with.groups;
    call.each_row(x.width * 8, [&](int64_t row) {
        for (int at = 0; at < x.width; at += LANES) {
            int n = std::min(LANES, x.width - at);
            F32 v = load_some(x[row] + at, n);
            if (with.order == gate_first) v *= apply(with.fn, load_some(z[row] + at, n));
            store_some(y[row] + at, v, n);
        }
        for (int group = 0; group < with.groups; ++group) {
            float* own = y[row] + group * width;
            const float* gate = z[row] + group * width;
            const Element* gain = weight + (weights == width ? 0 : group * width);
            float scale = 1 / std::sqrt(sum_of_squares(own, width) / width + with.eps);
            for (int at = 0; at < width; at += LANES) {
                int n = std::min(LANES, width - at);
                F32 v = load_some(own + at, n) * scale * load_some(gain + at, n);
                if (with.order == norm_first) v *= apply(with.fn, load_some(gate + at, n));
                store_some(own + at, v, n);
            }
        }
    });
}

template <int N>
inline void gated_norm(Call& call, Rows y, Rows x, Rows z, Vector<N> weight,
                       GatedNorm with) {
    gated(call, y, x, z, weight.data, N, with);
}

}  // namespace ops
