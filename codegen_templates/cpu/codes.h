// Products with weights of 8 or 4 bits.
//
// Codes lie in blocks of 16 rows as other weights do; 64 bytes are four columns, or of 4
// bits eight: those of the low halves of the bytes, then those of the high ones. They are
// stored without a sign, with half their range added. The numbers of x become integers of
// 15 bits, with a scale for each group: of what 16 bits could hold nothing is lost that
// the dtype of the model has. Where the processor multiplies bytes, an integer is a high
// and a low one.
#pragma once

#include "product.h"

struct Codes {
    const uint8_t* data;
    int rows, cols, bits;

    int blocks() const { return (rows + LANES - 1) / LANES; }
    int64_t block_bytes() const { return int64_t(LANES) * cols * bits / 8; }
    const uint8_t* block(int64_t i) const { return data + i * block_bytes(); }

    // The code at a place, with half its range added.
    int at(int64_t row, int64_t col) const {
        int wide = 32 / bits;  // columns of a row that lie together
        int64_t word = (row / LANES * (cols / wide) + col / wide) * LANES + row % LANES;
        int byte = data[word * 4 + col % 4];
        return bits == 8 ? byte : col % 8 < 4 ? byte & 15 : byte >> 4;
    }
};

// A parameter [ROWS, COLS] of codes.
template <int ROWS, int COLS, int BITS>
struct CodeWeight {
    const uint8_t* data;
    operator Codes() const { return {data, ROWS, COLS, BITS}; }
};

// A number for each group of a row's columns, in blocks [GROUPS][16].
template <class T>
struct Grouped {
    const T* data = nullptr;
    int groups = 1;
    const T* at(int64_t block, int group) const {
        return data + (block * groups + group) * LANES;
    }
};

template <int GROUPS>
struct Scales {
    const Element* data;
    operator Grouped<Element>() const { return {data, GROUPS}; }
};

template <int GROUPS>
struct Zeros {
    const int8_t* data;
    operator Grouped<int8_t>() const { return {data, GROUPS}; }
};

// Four numbers of x, as the instructions of this machine want them.
struct Quad {
#if defined(__AVX512VNNI__)
    int8_t high[4], low[4];
    void set(int i, int value) {
        high[i] = int8_t((value + 64) >> 7);
        low[i] = int8_t(value - high[i] * 128);
    }
#else
    int16_t pairs[4];  // of columns 0 and 2, 1 and 3
    void set(int i, int value) { pairs[i % 2 * 2 + i / 2] = int16_t(value); }
#endif
};

inline I32 whole(int x) { return I32{} + x; }

// Sums of codes times the numbers of x.
struct Sums {
    I32 high = {}, low = {};

#if defined(__AVX512VNNI__)
    void add(I32 codes, const Quad& x) {
        auto all = as<__m512i>(codes);
        __m512i a = _mm512_set1_epi32(load_as<int32_t>(x.high));
        __m512i b = _mm512_set1_epi32(load_as<int32_t>(x.low));
        high = as<I32>(_mm512_dpbusd_epi32(as<__m512i>(high), all, a));
        low = as<I32>(_mm512_dpbusd_epi32(as<__m512i>(low), all, b));
    }
    F32 total() const {
        return __builtin_convertvector(high, F32) * 128.0f +
               __builtin_convertvector(low, F32);
    }
#else
    void add(I32 codes, const Quad& x) {
        add_pairs(codes & 0x00ff00ff, load_as<int32_t>(x.pairs));
        add_pairs((codes >> 8) & 0x00ff00ff, load_as<int32_t>(x.pairs + 2));
    }
    F32 total() const { return __builtin_convertvector(low, F32); }

    void add_pairs(I32 codes, int32_t pair) {
#if defined(__AVX512BW__)
        __m512i sums = _mm512_madd_epi16(as<__m512i>(codes), _mm512_set1_epi32(pair));
        low += as<I32>(sums);
#elif defined(__AVX2__)
        __m256i halves[2], x = _mm256_set1_epi32(pair);
        std::memcpy(halves, &codes, sizeof codes);
        for (auto& half : halves) half = _mm256_madd_epi16(half, x);
        low += load_as<I32>(halves);
#else
        low += (codes & 0xffff) * int16_t(pair) + (codes >> 16) * (pair >> 16);
#endif
    }
#endif
};

// Rows of x as integers, with a scale and the sum of each group of `width` columns.
struct Integers {
    Quad* quads;
    float* scales;
    int32_t* sums;
    int cols, width;

    int groups() const { return cols / width; }
    const Quad* row(int64_t row) const { return quads + row * (cols / 4); }
};

constexpr int LARGEST = 16256;  // 127 · 128: its high byte is no larger than 127

// 16 numbers of x as whole ones; the nearest, and of two the even one, as lrint.
inline I32 nearest(F32 x) {
    const F32 shift = broadcast(12582912.0f);  // 1.5 · 2²³
    return as<I32>(x + shift) - as<I32>(shift);
}

// Puts 16 integers into four quads.
inline void set_quads(Quad* quads, I32 values) {
#if defined(__AVX512VNNI__)
    I32 high = (values + 64) >> 7;
    int32_t words[8];
    I8 highs = __builtin_convertvector(high, I8);
    I8 lows = __builtin_convertvector(values - high * 128, I8);
    std::memcpy(words, &highs, sizeof highs);
    std::memcpy(words + 4, &lows, sizeof lows);
    for (int i = 0; i < 4; ++i) {
        std::memcpy(quads[i].high, words + i, 4);
        std::memcpy(quads[i].low, words + 4 + i, 4);
    }
#else
    for (int i = 0; i < LANES; ++i) quads[i / 4].set(i % 4, values[i]);
#endif
}

inline void make_integers(Integers to, int64_t row, const float* x) {
    Quad* quads = to.quads + row * (to.cols / 4);
    for (int group = 0; group < to.groups(); ++group) {
        const float* from = x + group * to.width;
        F32 highest = {};
        I32 unknown = {};
        for (int at = 0; at < to.width; at += LANES) {
            F32 some = load_some(from + at, to.width - at);
            highest = maximum(highest, some < 0.0f ? -some : some);
            unknown |= some != some;
        }
        float most = largest(highest);
        bool known = std::isfinite(most);
        for (int i = 0; i < LANES; ++i) known = known && !unknown[i];
        float up = most > 0 && known ? LARGEST / most : 0;
        I32 sums = {};
        for (int at = 0; at < to.width; at += LANES) {
            int n = std::min(LANES, to.width - at);
            I32 values = {};
            if (known) values = nearest(load_some(from + at, n) * up);
            sums += values;
            Quad four[4];
            set_quads(four, values);
            std::memcpy(quads + (group * to.width + at) / 4, four, n / 4 * sizeof(Quad));
        }
        int32_t sum = 0;
        for (int i = 0; i < LANES; ++i) sum += sums[i];
        to.scales[row * to.groups() + group] = known ? most / LARGEST : NAN;
        to.sums[row * to.groups() + group] = sum;
    }
}

// The columns that share a scale of x: those of a group, or a part of them.
inline int shared_width(int group) {
    int width = 128;
    while (width > 8 && group % width) width /= 2;
    return group <= 128 ? group : width;
}

inline Integers integers(Call& call, Rows x, int group) {
    int width = shared_width(group);
    int64_t groups = call.rows * (x.width / width);
    Integers made{call.take<Quad>(call.rows * x.width / 4), call.take<float>(groups),
                  call.take<int32_t>(groups), x.width, width};
    call.each_row(x.width * 4, [&](int64_t row) { make_integers(made, row, x[row]); });
    return made;
}

// Bytes of codes and of scales that are asked for before their turn: taken apart, they
// are read too slowly for the processor to look as far ahead by itself.
constexpr int CODES_AHEAD = 4096, SCALES_AHEAD = 2048;

// Multiplies M rows of x with a block.
template <int BITS, int M>
inline void code_tile(F32 (&y)[M], const Codes& w, int64_t block,
                      const Grouped<Element>& scales, const Grouped<int8_t>& zeros,
                      const Integers& x, int64_t row) {
    constexpr int HALF = BITS == 8 ? 128 : 8, WIDE = 32 / BITS;
    const uint8_t* codes = w.block(block);
    int groups = x.groups(), own = groups / scales.groups;
    for (F32& sum : y) sum = F32{};
    for (int group = 0; group < groups; ++group) {
        auto sum_of = [&](int m) { return x.sums[(row + m) * groups + group]; };
        Sums sums[M];
        for (int m = 0; m < M; ++m) sums[m].low = whole(-HALF * sum_of(m));
        const Quad* quads = x.row(row) + group * (x.width / 4);
        for (int col = 0; col < x.width; col += WIDE, codes += 64) {
            I32 bytes = load_as<I32>(codes);
            I32 first = BITS == 8 ? bytes : bytes & 0x0f0f0f0f;
            __builtin_prefetch(codes + CODES_AHEAD);
#pragma GCC unroll 8
            for (int m = 0; m < M; ++m) sums[m].add(first, quads[m * (x.cols / 4) + col / 4]);
            if constexpr (BITS == 4) {
                I32 second = (bytes >> 4) & 0x0f0f0f0f;
#pragma GCC unroll 8
                for (int m = 0; m < M; ++m) {
                    sums[m].add(second, quads[m * (x.cols / 4) + col / 4 + 1]);
                }
            }
        }
        const Element* scale = scales.at(block, group / own);
        __builtin_prefetch(reinterpret_cast<const char*>(scale) + SCALES_AHEAD);
        F32 gain = load(scale);
        F32 zero = {};
        if (zeros.data) {
            auto some = load_as<I8>(zeros.at(block, group / own));
            zero = __builtin_convertvector(some, F32);
        }
        for (int m = 0; m < M; ++m) {
            F32 total = sums[m].total();
            if (zeros.data) total -= zero * float(sum_of(m));
            y[m] += total * (gain * x.scales[(row + m) * groups + group]);
        }
    }
}

namespace ops {

struct QuantizedLinear {
    Grouped<int8_t> zeros = {};
    const Element* bias = nullptr;
    int bits;
};

template <int BITS>
inline void code_product(Call& call, Rows y, const Integers& x, const Codes& w,
                         const Grouped<Element>& scales, const QuantizedLinear& with) {
    int64_t grain = std::clamp<int64_t>(CHUNK / w.block_bytes(), 1,
                                        w.blocks() / (4 * call.threads) + 1);
    call.parallel(w.blocks(), grain, [&](int64_t begin, int64_t end) {
        for (int64_t block = begin; block < end; ++block) {
            int left = int(w.rows - block * LANES);
            F32 bias = {};
            if (with.bias) bias = load_some(with.bias + block * LANES, left);
            int64_t row = 0;
            auto some = [&]<int M>() {
                for (; row + M <= call.rows; row += M) {
                    F32 sums[M];
                    code_tile<BITS, M>(sums, w, block, scales, with.zeros, x, row);
                    for (int m = 0; m < M; ++m) {
                        store_some(y[row + m] + block * LANES, sums[m] + bias, left);
                    }
                }
            };
            some.template operator()<8>();
            some.template operator()<4>();
            some.template operator()<1>();
        }
    });
}

inline void quantized_linear(Call& call, Rows y, Rows x, Codes w,
                             Grouped<Element> scales, QuantizedLinear with) {
    Scope scope(call);
    Integers in = integers(call, x, w.cols / scales.groups);
    if (w.bits == 8) return code_product<8>(call, y, in, w, scales, with);
    code_product<4>(call, y, in, w, scales, with);
}

struct QuantizedEmbedding {
    int bits;
};

inline void quantized_embedding(Call& call, Rows y, const int64_t* ids, Codes w,
                                Grouped<Element> scales, QuantizedEmbedding) {
    int half = 1 << (w.bits - 1);
    call.each_row(w.cols * 8, [&](int64_t row) {
        int64_t id = ids[row];
        float scale = widen(scales.at(id / LANES, 0)[id % LANES]);
        for (int col = 0; col < w.cols; ++col) {
            y[row][col] = float(w.at(id, col) - half) * scale;
        }
    });
}

}  // namespace ops
