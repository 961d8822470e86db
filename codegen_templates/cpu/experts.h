// The outputs of each token's experts, added up.
//
// Tokens are put in the order of their experts, so that an expert's weights are read once,
// by as many threads as there are: of a few tokens only the experts that they chose.
#pragma once

#include "elementwise.h"
#include "norms.h"
#include "product.h"

// Matrices one after the other, each in blocks of its own.
struct Stacked {
    const Element* data;
    int count, rows, cols;
    Matrix operator[](int64_t i) const { return {data + i * rows * cols, rows, cols}; }
};

// A parameter [COUNT, ROWS, COLS] in blocks.
template <int COUNT, int ROWS, int COLS>
struct Stack {
    const Element* data;
    operator Stacked() const { return {data, COUNT, ROWS, COLS}; }
};

namespace ops {

struct MoeExperts {
    const Element* gate_up_bias = nullptr;  // [experts, rows of gate and up]
    const Element* down_bias = nullptr;     // [experts, width]
    Function fn;
    float alpha = 0, limit = 0;
    int weigh = -1;  // `input`: a token is weighed before, not after
    bool gated = true;
};

}  // namespace ops

// Pairs of a token and one of its experts, in the order of experts.
class Pairs {
  public:
    Pairs(Call& call, Rows chosen, int experts)
        : count_(call.rows * chosen.width), each_(chosen.width) {
        begins_ = call.take<int64_t>(experts + 1);
        places_ = call.take<int64_t>(count_);
        tokens_ = call.take<int64_t>(count_);
        used_ = call.take<int>(experts);
        std::fill(begins_, begins_ + experts + 1, 0);
        auto expert = [&](int64_t pair) {
            float id = chosen[pair / each_][pair % each_];
            return int(std::clamp(id, 0.0f, float(experts - 1)));
        };
        for (int64_t pair = 0; pair < count_; ++pair) ++begins_[expert(pair) + 1];
        for (int i = 0; i < experts; ++i) {
            if (begins_[i + 1]) used_[used_count_++] = i;
            begins_[i + 1] += begins_[i];
        }
        auto* next = call.take<int64_t>(experts);
        std::copy(begins_, begins_ + experts, next);
        for (int64_t pair = 0; pair < count_; ++pair) {
            places_[pair] = next[expert(pair)]++;
            tokens_[places_[pair]] = pair;
        }
    }

    int64_t count() const { return count_; }
    int used() const { return used_count_; }
    int expert(int i) const { return used_[i]; }
    int64_t begin(int expert) const { return begins_[expert]; }
    int64_t end(int expert) const { return begins_[expert + 1]; }
    // Where a token's k-th expert is, and whose place it is.
    int64_t place(int64_t token, int k) const { return places_[token * each_ + k]; }
    int64_t token(int64_t place) const { return tokens_[place] / each_; }
    int choice(int64_t place) const { return int(tokens_[place] % each_); }

  private:
    int64_t count_, *begins_, *places_, *tokens_;
    int each_, used_count_ = 0, *used_;
};

namespace ops {

// Multiplies the pairs of each expert with its matrix.
inline void expert_products(Call& call, Rows y, Inputs x, const Pairs& pairs,
                            const Stacked& w, const Element* bias) {
    int64_t blocks = w[0].blocks();
    int64_t grain = CHUNK / (int64_t(LANES) * w.cols * sizeof(Element));
    int64_t most = pairs.used() * blocks / (4 * call.threads) + 1;
    grain = (std::clamp<int64_t>(grain, 1, most) + 1) / 2 * 2;
    int64_t chunks = (blocks + grain - 1) / grain;
    call.parallel(pairs.used() * chunks, 1, [&](int64_t at, int64_t) {
        int expert = pairs.expert(int(at / chunks));
        Matrix own = w[expert];
        int64_t first = pairs.begin(expert), count = pairs.end(expert) - first;
        int64_t block = at % chunks * grain, end = std::min(block + grain, blocks);
        Inputs some{x[first], x.stride};
        auto take = [&](int64_t row, int n, F32 sums) {
            int64_t out = (block + n) * LANES;
            if (bias) sums += load(bias + int64_t(expert) * w.rows + out);
            store(y[first + row] + out, sums);
        };
        for (; count >= 4 && block + 2 <= end; block += 2) {
            tiles<2>(own.block(block), some, count, w.cols, take);
        }
        for (; block < end; ++block) tiles<1>(own.block(block), some, count, w.cols, take);
    });
}

// What an expert does between its products.
inline void activate(Call& pairs, Rows y, Rows x, const MoeExperts& with) {
    pointwise(pairs, y, [&](int64_t row, int at, int n) {
        F32 gate = load_some(x[row] + at, n);
        if (!with.gated) return apply(with.fn, gate);
        F32 up = load_some(x[row] + y.width + at, n);
        if (with.limit == 0) return apply(with.fn, gate) * up;
        F32 limit = broadcast(with.limit);
        up = minimum(maximum(up, -limit), limit);
        if (with.alpha == 0) return minimum(apply(with.fn, gate), limit) * up;
        gate = minimum(gate, limit);
        return gate * sigmoid(gate * with.alpha) * (up + 1.0f);
    });
}

inline void moe_experts(Call& call, Rows y, Rows x, Rows chosen, Rows weights,
                        Stacked gate_up, Stacked down, MoeExperts with) {
    Scope scope(call);
    Pairs pairs(call, chosen, down.count);
    Call each = call;
    each.rows = pairs.count();
    Rows read = each.make(x.width);
    each.each_row(x.width, [&](int64_t place) {
        int64_t token = pairs.token(place);
        float share = with.weigh == input ? weights[token][pairs.choice(place)] : 1;
        for (int at = 0; at < x.width; ++at) read[place][at] = x[token][at] * share;
    });
    Rows hidden = each.make(gate_up.rows), opened = each.make(down.cols);
    expert_products(each, hidden, inputs(each, read), pairs, gate_up, with.gate_up_bias);
    activate(each, opened, hidden, with);
    Rows made = each.make(down.rows);
    expert_products(each, made, inputs(each, opened), pairs, down, with.down_bias);
    call.each_row(y.width * chosen.width, [&](int64_t row) {
        for (int at = 0; at < y.width; at += LANES) {
            int n = std::min(LANES, y.width - at);
            F32 total = {};
            for (int k = 0; k < chosen.width; ++k) {
                float share = with.weigh == input ? 1 : weights[row][k];
                total += load_some(made[pairs.place(row, k)] + at, n) * share;
            }
            store_some(y[row] + at, total, n);
        }
    });
}

// A learned factor of each chosen expert.
template <int EXPERTS>
inline void scale_experts(Call& call, Rows y, Rows weights, Rows chosen,
                          ExactVector<EXPERTS> scale) {
    call.each_row(y.width, [&](int64_t row) {
        for (int k = 0; k < y.width; ++k) {
            int expert = std::clamp(int(chosen[row][k]), 0, EXPERTS - 1);
            y[row][k] = weights[row][k] * scale.data[expert];
        }
    });
}

}  // namespace ops
