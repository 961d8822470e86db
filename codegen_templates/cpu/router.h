// The choice of each token's experts.
#pragma once

#include "elementwise.h"
#include "product.h"

namespace ops {

// What becomes of logits: these, or a sigmoid.
enum Score { softmax = softplus + 1, sqrt_softplus, logit };
enum Ineligible { never, zero };
enum GroupScore { top2, max_ };

struct MoeRouter {
    const float* bias = nullptr;        // [experts]
    const float* correction = nullptr;  // [experts], which counts for the choice only
    int top_k;
    float softcap = 0;
    int score;
    int after = -1;
    int groups = 1, top_groups = 1, group_score = top2, ineligible = never;
    bool renormalise = false;
    float least_sum = 0, sum_eps = 1e-20f;
    float scale = 1;
};

// Logits of M rows of x for an expert, whose weights are fp32 like all that chooses.
template <int M>
inline void expert_logits(float* to, int64_t stride, Rows x, int64_t row, const float* w) {
    F32 sums[M] = {};
    for (int at = 0; at < x.width; at += LANES) {
        F32 some = load_some(w + at, x.width - at);
        for (int m = 0; m < M; ++m) {
            sums[m] += some * load_some(x[row + m] + at, x.width - at);
        }
    }
    for (int m = 0; m < M; ++m) to[(row + m) * stride] = sum(sums[m]);
}

inline void scored(float* scores, int n, int score) {
    if (score == sigmoid_ || score == sqrt_softplus) {
        for (int i = 0; i < n; ++i) {
            float x = scores[i];
            float soft = x > 20 ? x : std::log1p(std::exp(x));
            scores[i] = score == sigmoid_ ? 1 / (1 + std::exp(-x)) : std::sqrt(soft);
        }
    } else if (score == softmax) {
        float most = *std::max_element(scores, scores + n), total = 0;
        for (int i = 0; i < n; ++i) total += scores[i] = std::exp(scores[i] - most);
        for (int i = 0; i < n; ++i) scores[i] /= total;
    }
}

// Finds the largest of n numbers that are not taken yet, and takes it; of equal ones the
// first.
inline int take_largest(const float* numbers, bool* taken, int n) {
    int best = -1;
    for (int i = 0; i < n; ++i) {
        if (!taken[i] && (best < 0 || numbers[i] > numbers[best])) best = i;
    }
    taken[best] = true;
    return best;
}

// Leaves the experts of the best groups only.
inline void keep_groups(float* choice, bool* taken, float* judged, int experts,
                        const MoeRouter& with) {
    int size = experts / with.groups;
    int count = with.group_score == top2 ? 2 : 1;
    for (int group = 0; group < with.groups; ++group) {
        float* own = choice + group * size;
        std::fill(taken, taken + size, false);
        judged[group] = 0;
        for (int i = 0; i < count; ++i) judged[group] += own[take_largest(own, taken, size)];
    }
    std::fill(taken, taken + with.groups, false);
    for (int i = 0; i < with.top_groups; ++i) take_largest(judged, taken, with.groups);
    float lowest = with.ineligible == zero ? 0 : -std::numeric_limits<float>::infinity();
    for (int group = 0; group < with.groups; ++group) {
        if (!taken[group]) std::fill_n(choice + group * size, size, lowest);
    }
}

// Chooses the experts of a token by its logits, which it overwrites.
inline void choose(float* chosen, float* weights, float* logits, int experts,
                   const MoeRouter& with) {
    auto* choice = scratch<float>(2 * experts + experts / sizeof(float) + 1);
    float* judged = choice + experts;
    auto* taken = reinterpret_cast<bool*>(judged + experts);
    for (int i = 0; i < experts; ++i) {
        if (with.bias) logits[i] += with.bias[i];
        if (with.softcap) logits[i] = with.softcap * std::tanh(logits[i] / with.softcap);
    }
    scored(logits, experts, with.score);
    for (int i = 0; i < experts; ++i) {
        choice[i] = logits[i] + (with.correction ? with.correction[i] : 0);
    }
    if (with.groups > 1) keep_groups(choice, taken, judged, experts, with);
    std::fill(taken, taken + experts, false);
    for (int k = 0; k < with.top_k; ++k) {
        int expert = take_largest(choice, taken, experts);
        chosen[k] = float(expert);
        weights[k] = logits[expert];
    }
    if (with.after >= 0) scored(weights, with.top_k, with.after);
    float total = 0;
    for (int k = 0; k < with.top_k; ++k) total += weights[k];
    total = with.least_sum > 0 ? std::max(total, with.least_sum) : total + with.sum_eps;
    float gain = with.renormalise ? with.scale / total : with.scale;
    for (int k = 0; k < with.top_k; ++k) weights[k] *= gain;
}

// Experts, whole numbers that lie as floats do, and their weights.
inline void route(Call& call, Rows chosen, Rows weights, Rows x, const float* w,
                  int experts, const MoeRouter& with) {
    Scope scope(call);
    auto* logits = call.take<float>(call.rows * experts);
    int64_t grain = std::max<int64_t>(1, CHUNK / (x.width * int64_t(sizeof(float))));
    grain = std::min<int64_t>(grain, experts / (4 * call.threads) + 1);
    call.parallel(experts, grain, [&](int64_t begin, int64_t end) {
        for (int64_t expert = begin; expert < end; ++expert) {
            const float* own = w + expert * x.width;
            int64_t row = 0;
            for (; row + 4 <= call.rows; row += 4) {
                expert_logits<4>(logits + expert, experts, x, row, own);
            }
            for (; row < call.rows; ++row) {
                expert_logits<1>(logits + expert, experts, x, row, own);
            }
        }
    });
    call.each_row(experts * with.top_k, [&](int64_t row) {
        choose(chosen[row], weights[row], logits + row * experts, experts, with);
    });
}

template <int EXPERTS, int COLS>
inline void moe_router(Call& call, Rows chosen, Rows weights, Rows x,
                       Exact<EXPERTS, COLS> w, MoeRouter with) {
    route(call, chosen, weights, x, w.data, EXPERTS, with);
}

}  // namespace ops
