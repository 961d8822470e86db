// Attention over latents, of which every head makes its keys and values.
//
// A query is taken to the latents by the key rows of its head, and all heads attend to
// the same slots like the heads of one group; the value rows make the context of what
// was mixed. So a latent is never expanded, in prompts neither.
#pragma once

#include "attention.h"

// Latents and the keys that all heads share, [batch, capacity, width].
struct Latents {
    Element* data;
    int width;
};

// What a layer keeps for each token, by its pointer.
template <int WIDTH>
struct PerToken {
    Element* data;
    operator Latents() const { return {data, WIDTH}; }
};

namespace ops {

inline void latent_write(Call& call, Latents kept, Rows latent, Rows shared) {
    call.each_row(kept.width, [&](int64_t row) {
        int64_t slot = row / call.tokens * call.capacity + call.past + row % call.tokens;
        auto put = [&](Element* to, Rows from) {
            for (int i = 0; i < from.width; i += LANES) {
                int n = std::min(LANES, from.width - i);
                store_some(to + i, load_some(from[row] + i, n), n);
            }
        };
        put(kept.data + slot * kept.width, latent);
        put(kept.data + slot * kept.width + latent.width, shared);
    });
}

struct LatentAttention {
    const Element* bias = nullptr;   // [heads · (key channels + value channels)]
    const Element* sinks = nullptr;  // [heads]
    float scale;
    int window = 0;
};

// y = qᵀ w of M rows: n rows of w, `width` columns.
template <int M>
inline void absorb(float* const (&y)[M], const float* const (&q)[M], const Element* w,
                   int n, int width) {
    constexpr int WIDE = 4;
    for (int at = 0; at < width; at += WIDE * LANES) {
        int left = width - at;
        F32 sums[M][WIDE] = {};
        for (int i = 0; i < n; ++i) {
            const Element* from = w + int64_t(i) * width + at;
            for (int v = 0; v < WIDE; ++v) {
                if (v * LANES >= left) break;
                F32 some = load_some(from + v * LANES, left - v * LANES);
                for (int m = 0; m < M; ++m) sums[m][v] += some * q[m][i];
            }
        }
        for (int v = 0; v < WIDE && v * LANES < left; ++v) {
            for (int m = 0; m < M; ++m) {
                store_some(y[m] + at + v * LANES, sums[m][v], left - v * LANES);
            }
        }
    }
}

// y = w x of M rows: n rows of w, `width` columns.
template <int M>
inline void expand(float* const (&y)[M], const float* const (&x)[M], const Element* w,
                   const Element* bias, int n, int width) {
    for (int i = 0; i < n; ++i) {
        F32 sums[M] = {};
        for (int at = 0; at < width; at += LANES) {
            F32 some = load_some(w + int64_t(i) * width + at, width - at);
            for (int m = 0; m < M; ++m) sums[m] += some * load_some(x[m] + at, width - at);
        }
        for (int m = 0; m < M; ++m) y[m][i] = sum(sums[m]) + (bias ? widen(bias[i]) : 0);
    }
}

// Calls `of(head, rows)` for all heads, some rows of the call at a time.
template <class Of>
inline void by_head(Call& call, int heads, Of of) {
    constexpr int TILE = 64;
    int64_t tiles = (call.rows + TILE - 1) / TILE;
    call.parallel(heads * tiles, 1, [&](int64_t i, int64_t) {
        int64_t row = i % tiles * TILE, end = std::min(row + TILE, call.rows);
        int head = int(i / tiles);
        for (; row + 4 <= end; row += 4) {
            int64_t rows[4] = {row, row + 1, row + 2, row + 3};
            of.template operator()<4>(head, rows);
        }
        for (; row < end; ++row) {
            int64_t rows[1] = {row};
            of.template operator()<1>(head, rows);
        }
    });
}

inline void attend_latents(Call& call, Rows y, Rows q, Latents kept, const Element* kv_b,
                           int rows, int rank, const LatentAttention& with) {
    Scope scope(call);
    int heads = q.heads, width = q.head_width(), turned = kept.width - rank;
    int nope = width - turned, own = rows / heads, made = own - nope;
    Rows taken = call.make(heads * kept.width, heads);
    by_head(call, heads, [&]<int M>(int head, const int64_t (&at)[M]) {
        float* to[M];
        const float* from[M];
        for (int m = 0; m < M; ++m) {
            to[m] = taken[at[m]] + head * kept.width;
            from[m] = q[at[m]] + head * width;
        }
        absorb<M>(to, from, kv_b + int64_t(head) * own * rank, nope, rank);
        for (int m = 0; m < M; ++m) {
            std::memcpy(to[m] + rank, from[m] + nope, turned * sizeof(float));
        }
    });
    Rows mixed = call.make(heads * rank, heads);
    KeysValues kv{kept.data, kept.data, 1, kept.width, rank, kept.width};
    attention(call, mixed, taken, kv,
              {.sinks = with.sinks, .scale = with.scale, .window = with.window});
    by_head(call, heads, [&]<int M>(int head, const int64_t (&at)[M]) {
        float* to[M];
        const float* from[M];
        for (int m = 0; m < M; ++m) {
            to[m] = y[at[m]] + head * made;
            from[m] = mixed[at[m]] + head * rank;
        }
        int64_t first = int64_t(head) * own + nope;
        const Element* bias = with.bias ? with.bias + first : nullptr;
        expand<M>(to, from, kv_b + first * rank, bias, made, rank);
    });
}

template <int ROWS, int RANK>
inline void latent_attention(Call& call, Rows y, Rows q, Latents kept,
                             Table<ROWS, RANK> kv_b, LatentAttention with) {
    attend_latents(call, y, q, kept, kv_b.data, ROWS, RANK, with);
}

}  // namespace ops
