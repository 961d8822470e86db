// Products with weights, which lie in blocks of 16 rows: within one, the 16 rows' numbers
// of a column (or of a pair of columns, where two bytes make one) lie side by side. So a
// block is read from its first byte to its last, whatever is made of it.
#pragma once

#include "call.h"

#if defined(ELEMENT_BF16)
constexpr int PAIR = 2;
#else
constexpr int PAIR = 1;
#endif

#if defined(ELEMENT_BF16) && defined(__AVX512BF16__)
using Input = bf16;  // two columns are multiplied and added by one instruction
#else
using Input = float;
#endif

struct Matrix {
    const Element* data;
    int rows, cols;

    int blocks() const { return (rows + LANES - 1) / LANES; }
    const Element* block(int64_t i) const { return data + i * LANES * cols; }
    int64_t at(int64_t row, int64_t col) const {
        return (row / LANES * cols + col / PAIR * PAIR) * LANES +
               row % LANES * PAIR + col % PAIR;
    }
};

// A parameter [ROWS, COLS] in blocks.
template <int ROWS, int COLS>
struct Weight {
    const Element* data;
    operator Matrix() const { return {data, ROWS, COLS}; }
};

// A parameter [ROWS, COLS] as the checkpoint has it.
template <int ROWS, int COLS>
struct Table {
    const Element* data;
    operator const Element*() const { return data; }
};

// What stays together in a block: two columns of bf16, or one.
#if defined(ELEMENT_BF16)
using Word = uint32_t;
#else
using Word = Element;
#endif

#if defined(__AVX512F__)
// Writes 16 words of each of 16 rows column by column.
inline void transpose(char* to, const char* const (&row)[LANES], size_t at) {
    __m512i a[LANES], b[LANES];
    for (int i = 0; i < LANES; ++i) a[i] = load_as<__m512i>(row[i] + at);
    for (int i = 0; i < LANES; i += 2) {  // pairs of rows, word by word
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4) {  // fours of rows: a column in each quarter
        for (int half = 0; half < 2; ++half) {
            __m512i first = b[i + half], second = b[i + 2 + half];
            a[i + 2 * half] = _mm512_unpacklo_epi64(first, second);
            a[i + 2 * half + 1] = _mm512_unpackhi_epi64(first, second);
        }
    }
    for (int i = 0; i < 4; ++i) {  // quarters of the same column together
        __m512i even = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88);
        __m512i odd = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd);
        __m512i next_even = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
        __m512i next_odd = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xdd);
        auto put = [&](int column, __m512i x, __m512i y, bool second) {
            __m512i all = second ? _mm512_shuffle_i32x4(x, y, 0xdd)
                                 : _mm512_shuffle_i32x4(x, y, 0x88);
            std::memcpy(to + column * sizeof all, &all, sizeof all);
        };
        put(i, even, next_even, false);
        put(i + 4, odd, next_odd, false);
        put(i + 8, even, next_even, true);
        put(i + 12, odd, next_odd, true);
    }
}
#endif

// Makes a block of 16 rows that lie one after the other; of fewer, the last is repeated.
template <class Word>
inline void pack_block(void* block, const void* from, int rows, int words) {
    const char* row[LANES];
    for (int i = 0; i < LANES; ++i) {
        int64_t at = std::min(i, rows - 1) * int64_t(words);
        row[i] = static_cast<const char*>(from) + at * sizeof(Word);
    }
    auto* to = static_cast<char*>(block);
    size_t at = 0;
#if defined(__AVX512F__)
    constexpr size_t WIDE = LANES * sizeof(Word);
    if constexpr (sizeof(Word) == 4) {
        for (; at + WIDE <= words * sizeof(Word); at += WIDE, to += LANES * WIDE) {
            transpose(to, row, at);
        }
    }
#endif
    for (; at < words * sizeof(Word); at += sizeof(Word)) {
        for (int i = 0; i < LANES; ++i, to += sizeof(Word)) {
            std::memcpy(to, row[i] + at, sizeof(Word));
        }
    }
}

// What 64 bytes of a block hold, ready to be multiplied.
struct Packed {
#if defined(ELEMENT_BF16) && defined(__AVX512BF16__)
    __m512bh pairs;
    explicit Packed(const bf16* from) : pairs(load_as<__m512bh>(from)) {}
    F32 multiply_add(F32 sum, const bf16* x) const {
        __m512i pair = _mm512_set1_epi32(load_as<int32_t>(x));
        return as<F32>(_mm512_dpbf16_ps(as<__m512>(sum), pairs, as<__m512bh>(pair)));
    }
#elif defined(ELEMENT_BF16)
    F32 even, odd;
    explicit Packed(const bf16* from) {
        U32 pairs = load_as<U32>(from);
        even = as<F32>(pairs << 16);
        odd = as<F32>(pairs & 0xffff0000);
    }
    F32 multiply_add(F32 sum, const float* x) const {
        sum += even * broadcast(x[0]);
        return sum + odd * broadcast(x[1]);
    }
#else
    F32 column;
    explicit Packed(const Element* from) : column(load(from)) {}
    F32 multiply_add(F32 sum, const float* x) const {
        return sum + column * broadcast(x[0]);
    }
#endif
};

// Rows of x as products read them.
struct Inputs {
    const Input* data;
    int64_t stride;
    const Input* operator[](int64_t row) const { return data + row * stride; }
};

// Numbers of a block that are asked for before their turn. Where a number is used for
// several rows, the processor does not look as far ahead by itself.
constexpr int AHEAD = 4096 / sizeof(Element);

// Multiplies M rows of x with N blocks that follow one another. Where there are few sums,
// each is split, so that one addition need not wait for the last.
template <int M, int N>
inline void tile(F32 (&sums)[M][N], const Element* block, const Input* x,
                 int64_t stride, int cols) {
    constexpr int SPLIT = M * N == 1 ? 4 : M * N <= 4 ? 2 : 1;
    constexpr int STEP = SPLIT * PAIR;
    F32 parts[SPLIT][M][N] = {};
    int col = 0;
    for (; col + STEP <= cols; col += STEP) {
#pragma GCC unroll 4
        for (int s = 0; s < SPLIT; ++s) {
            int at = col + s * PAIR;
#pragma GCC unroll 3
            for (int n = 0; n < N; ++n) {
                const Element* from = block + (int64_t(n) * cols + at) * LANES;
                if (M > 1) __builtin_prefetch(from + AHEAD);
                Packed packed(from);
#pragma GCC unroll 8
                for (int m = 0; m < M; ++m) {
                    parts[s][m][n] =
                        packed.multiply_add(parts[s][m][n], x + m * stride + at);
                }
            }
        }
    }
    for (; col < cols; col += PAIR) {
        for (int n = 0; n < N; ++n) {
            Packed packed(block + (int64_t(n) * cols + col) * LANES);
            for (int m = 0; m < M; ++m) {
                parts[0][m][n] = packed.multiply_add(parts[0][m][n], x + m * stride + col);
            }
        }
    }
    for (int m = 0; m < M; ++m) {
        for (int n = 0; n < N; ++n) {
            sums[m][n] = parts[0][m][n];
            for (int s = 1; s < SPLIT; ++s) sums[m][n] += parts[s][m][n];
        }
    }
}

// Calls `take(row, n, sums)` for `rows` rows of x and N blocks, some rows at a time.
template <int N, class Take>
inline void tiles(const Element* block, Inputs x, int64_t rows, int cols, Take take) {
    int64_t row = 0;
    auto some = [&]<int M>() {
        for (; row + M <= rows; row += M) {
            F32 sums[M][N];
            tile<M, N>(sums, block, x[row], x.stride, cols);
            for (int m = 0; m < M; ++m) {
                for (int n = 0; n < N; ++n) take(row + m, n, sums[m][n]);
            }
        }
    };
    some.template operator()<8>();
    some.template operator()<4>();
    some.template operator()<2>();
    some.template operator()<1>();
}

// Makes inputs of values; where products read floats, these are the values themselves.
inline Inputs inputs(Call& call, Rows x) {
#if defined(ELEMENT_BF16) && defined(__AVX512BF16__)
    int64_t stride = (x.width + 31) / 32 * 32;
    auto* data = call.take<Input>(call.rows * stride);
    call.each_row(x.width, [&](int64_t row) {
        for (int at = 0; at < x.width; at += LANES) {
            store_some(data + row * stride + at, load_some(x[row] + at, x.width - at),
                       x.width - at);
        }
    });
    return {data, stride};
#else
    return {x.data, x.stride};
#endif
}

namespace ops {

struct Linear {
    const Element* bias = nullptr;
};

constexpr int64_t CHUNK = 256 << 10;  // bytes of weights that a thread takes at once

inline void linear(Call& call, Rows y, Rows x, Matrix w, Linear with = {}) {
    Scope scope(call);
    Inputs in = inputs(call, x);
    auto take = [&](int64_t block) {
        return [&, block](int64_t row, int n, F32 sums) {
            int64_t at = (block + n) * LANES;
            int left = int(w.rows - at);
            if (with.bias) sums += load_some(with.bias + at, left);
            store_some(y[row] + at, sums, left);
        };
    };
    int64_t grain = CHUNK / (int64_t(LANES) * w.cols * sizeof(Element));
    grain = std::clamp<int64_t>(grain, 1, w.blocks() / (4 * call.threads) + 1);
    // With more rows more blocks at once: fewer numbers of x are loaded for each product.
    int wide = call.rows > 8 ? 3 : call.rows >= 4 ? 2 : 1;
    grain = (grain + wide - 1) / wide * wide;
    call.parallel(w.blocks(), grain, [&](int64_t begin, int64_t end) {
        int64_t block = begin;
        for (; wide == 3 && block + 3 <= end; block += 3) {
            tiles<3>(w.block(block), in, call.rows, w.cols, take(block));
        }
        for (; wide >= 2 && block + 2 <= end; block += 2) {
            tiles<2>(w.block(block), in, call.rows, w.cols, take(block));
        }
        for (; block < end; ++block) {
            tiles<1>(w.block(block), in, call.rows, w.cols, take(block));
        }
    });
}

inline void embedding(Call& call, Rows y, const int64_t* ids, Matrix w) {
    call.each_row(w.cols * 8, [&](int64_t row) {
        for (int col = 0; col < w.cols; ++col) {
            y[row][col] = widen(w.data[w.at(ids[row], col)]);
        }
    });
}

template <int ROWS, int COLS>
inline void embedding(Call& call, Rows y, const int64_t* ids, Table<ROWS, COLS> w) {
    call.each_row(COLS, [&](int64_t row) {
        for (int col = 0; col < COLS; ++col) {
            y[row][col] = widen(w.data[ids[row] * COLS + col]);
        }
    });
}

}  // namespace ops
