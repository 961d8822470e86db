// Attention over the cache, of a token and of a prompt.
//
// Rows of queries that read the same keys are taken together: the heads of a group, of
// some tokens. 16 keys at a time are turned into a block of weights and multiplied like
// one. Long caches are cut into parts, each with its own maximum and sum, so that one
// token has work for every thread; the parts are put together at the end.
#pragma once

#include "product.h"

// Keys and values, [batch, heads, capacity, width] each; a value may be the beginning of
// something wider.
struct KeysValues {
    Element *keys, *values;
    int heads, key_width, value_width, value_stride;

    int64_t slot(const Call& call, int64_t batch, int head, int64_t at) const {
        return (batch * heads + head) * call.capacity + at;
    }
};

// What a layer keeps, by its pointers.
template <int HEADS, int KEY, int VALUE>
struct Kept {
    Element *keys, *values;
    operator KeysValues() const { return {keys, values, HEADS, KEY, VALUE, VALUE}; }
};

namespace ops {

inline void kv_write(Call& call, KeysValues kv, Rows k, Rows v) {
    call.each_row(k.width + v.width, [&](int64_t row) {
        int64_t batch = row / call.tokens, at = call.past + row % call.tokens;
        for (int head = 0; head < kv.heads; ++head) {
            int64_t slot = kv.slot(call, batch, head, at);
            auto put = [&](Element* to, const float* from, int width) {
                for (int i = 0; i < width; i += LANES) {
                    store_some(to + i, load_some(from + i, width - i), width - i);
                }
            };
            put(kv.keys + slot * kv.key_width, k[row] + head * kv.key_width, kv.key_width);
            put(kv.values + slot * kv.value_stride, v[row] + head * kv.value_width,
                kv.value_width);
        }
    });
}

struct Attention {
    const int32_t* prefix = nullptr;  // [batch]
    const float* slopes = nullptr;    // [heads]
    const Element* sinks = nullptr;   // [heads]
    float scale;
    int window = 0;
    int learned = 0;
    int chunk = 0;
    float softcap = 0;
};

}  // namespace ops

// The slots that a query sees: [begin, end), and the learned ones before.
struct Seen {
    int64_t begin, end;
};

inline Seen seen_by(const Call& call, int64_t batch, int64_t slot,
                    const ops::Attention& with) {
    int64_t start = call.start ? call.start[batch] : 0;
    int64_t begin = std::max<int64_t>(start, with.learned), end = slot + 1;
    if (with.window) begin = std::max(begin, slot + 1 - with.window);
    if (with.chunk && slot >= start) {
        begin = std::max(begin, start + (slot - start) / with.chunk * with.chunk);
    }
    if (with.prefix) end = std::max<int64_t>(end, with.prefix[batch]);
    if (slot < start) begin = slot, end = slot + 1;  // padding sees itself
    return {begin, end};
}

// Queries that read the same keys, while they go through the slots.
class Queries {
  public:
    static constexpr int MOST = 32, AT_ONCE = 64;  // rows, slots

    static size_t floats(const KeysValues& kv) {
        return MOST * (AT_ONCE + kv.value_width + LANES + 4) +
               LANES * (kv.key_width + 2);
    }

    Queries(const Call& call, const ops::Attention& with, const KeysValues& kv,
            Inputs inputs, int64_t batch, int head, int count, float* memory)
        : call_(call), with_(with), kv_(kv), inputs_(inputs), batch_(batch), head_(head),
          count_(count), context_width_((kv.value_width + LANES - 1) / LANES * LANES) {
        scores_ = memory;
        context_ = scores_ + MOST * AT_ONCE;
        most_ = context_ + MOST * context_width_;
        total_ = most_ + MOST;
        slope_ = total_ + MOST;
        block_ = reinterpret_cast<Element*>(slope_ + MOST);
        std::fill(context_, context_ + count * context_width_, 0.0f);
        std::fill(most_, most_ + count, -std::numeric_limits<float>::infinity());
        std::fill(total_, total_ + count, 0.0f);
    }

    // Row r is the query of `slot`, of head `head`.
    void set(int row, int64_t slot, int head) {
        slot_[row] = slot;
        seen_[row] = seen_by(call_, batch_, slot, with_);
        slope_[row] = with_.slopes ? with_.slopes[head] : 0;
    }

    // Attends to the slots of [begin, end) that each row sees.
    void attend(int64_t begin, int64_t end) {
        for (int64_t at = begin; at < end; at += AT_ONCE) {
            int n = int(std::min<int64_t>(AT_ONCE, end - at));
            score(at, n);
            for (int row = 0; row < count_; ++row) weigh(row, at, n);
            mix(at, n);
        }
    }

    int64_t first_slot() const {
        int64_t first = seen_[0].begin;
        for (int row = 1; row < count_; ++row) first = std::min(first, seen_[row].begin);
        return first;
    }

    int64_t last_slot() const {
        int64_t last = seen_[0].end;
        for (int row = 1; row < count_; ++row) last = std::max(last, seen_[row].end);
        return last;
    }

    float most(int row) const { return most_[row]; }
    float total(int row) const { return total_[row]; }
    const float* context(int row) const { return context_ + row * context_width_; }

  private:
    void score(int64_t at, int n) {
        int64_t slot = kv_.slot(call_, batch_, head_, at);
        for (int i = 0; i < n; i += LANES) {
            ask_for(slot + i);
            pack_block<Word>(block_, kv_.keys + (slot + i) * kv_.key_width,
                             std::min(LANES, n - i), kv_.key_width / PAIR);
            tiles<1>(block_, inputs_, count_, kv_.key_width,
                     [&](int64_t row, int, F32 sums) {
                         store(scores_ + row * AT_ONCE + i, sums * with_.scale);
                     });
        }
    }

    // Asks for values that are read next, and for the keys of the next slots.
    void ask_for(int64_t slot) const {
        auto ask = [](const Element* from, int64_t count) {
            auto* at = reinterpret_cast<const char*>(from);
            auto* end = reinterpret_cast<const char*>(from + count);
            for (; at < end; at += 64) __builtin_prefetch(at);
        };
        ask(kv_.values + slot * kv_.value_stride, LANES * kv_.value_stride);
        ask(kv_.keys + (slot + AT_ONCE) * kv_.key_width, LANES * kv_.key_width);
    }

    // Scores of a row to weights relative to its largest score so far.
    void weigh(int row, int64_t at, int n) {
        float* scores = scores_ + row * AT_ONCE;
        change(row, scores, at, n);
        F32 highest = broadcast(-std::numeric_limits<float>::infinity());
        for (int i = 0; i < n; i += LANES) highest = maximum(highest, load(scores + i));
        float most = std::max(most_[row], largest(highest));
        if (most == -std::numeric_limits<float>::infinity()) {
            std::fill(scores, scores + AT_ONCE, 0.0f);  // it has seen nothing yet
            return;
        }
        F32 sums = {};
        for (int i = 0; i < n; i += LANES) {
            F32 weight = exponential(load(scores + i) - most);
            store(scores + i, weight);
            sums += weight;
        }
        float kept = std::exp(most_[row] - most);
        total_[row] = total_[row] * kept + sum(sums);
        most_[row] = most;
        if (kept == 1) return;
        float* context = context_ + row * context_width_;
        for (int i = 0; i < context_width_; i += LANES) {
            store(context + i, load(context + i) * kept);
        }
    }

    // Caps and slopes; what a row does not see gets no weight.
    void change(int row, float* scores, int64_t at, int n) {
        Seen seen = seen_[row];
        if (with_.softcap) {
            for (int i = 0; i < n; ++i) {
                scores[i] = with_.softcap * std::tanh(scores[i] / with_.softcap);
            }
        }
        if (with_.slopes) {
            for (int i = 0; i < n; ++i) scores[i] -= slope_[row] * float(slot_[row] - at - i);
        }
        bool all = seen.begin <= at && at + n <= seen.end;
        for (int i = 0; !all && i < n; ++i) {
            bool sees = (seen.begin <= at + i && at + i < seen.end) || at + i < with_.learned;
            if (!sees) scores[i] = -std::numeric_limits<float>::infinity();
        }
        int whole = (n + LANES - 1) / LANES * LANES;
        for (int i = n; i < whole; ++i) scores[i] = -std::numeric_limits<float>::infinity();
    }

    // Adds the values, each times its weight.
    void mix(int64_t at, int n) {
        int64_t slot = kv_.slot(call_, batch_, head_, at);
        const Element* values = kv_.values + slot * kv_.value_stride;
        int row = 0;
        for (; row + 8 <= count_; row += 8) mix_rows<8>(row, values, n);
        for (; row + 4 <= count_; row += 4) mix_rows<4>(row, values, n);
        for (; row < count_; ++row) mix_rows<1>(row, values, n);
    }

    // Channels are taken some vectors at a time, so that a weight is read once for them.
    template <int M>
    void mix_rows(int row, const Element* values, int n) {
        constexpr int WIDE = M > 4 ? 1 : 4;
        int i = 0;
        for (; i + WIDE * LANES <= kv_.value_width; i += WIDE * LANES) {
            mix_channels<M, WIDE>(row, values, n, i, LANES);
        }
        for (; i < kv_.value_width; i += LANES) {
            mix_channels<M, 1>(row, values, n, i, std::min(LANES, kv_.value_width - i));
        }
    }

    template <int M, int N>
    void mix_channels(int row, const Element* values, int n, int i, int width) {
        const float* weights = scores_ + row * AT_ONCE;
        float* context = context_ + row * context_width_ + i;
        F32 sums[M][N];
        for (int m = 0; m < M; ++m) {
            for (int j = 0; j < N; ++j) {
                sums[m][j] = load(context + m * context_width_ + j * LANES);
            }
        }
        for (int key = 0; key < n; ++key) {
            const Element* from = values + int64_t(key) * kv_.value_stride + i;
            F32 value[N];
#pragma GCC unroll 4
            for (int j = 0; j < N; ++j) value[j] = load_some(from + j * LANES, width);
#pragma GCC unroll 8
            for (int m = 0; m < M; ++m) {
                F32 weight = broadcast(weights[m * AT_ONCE + key]);
#pragma GCC unroll 4
                for (int j = 0; j < N; ++j) sums[m][j] += value[j] * weight;
            }
        }
        for (int m = 0; m < M; ++m) {
            for (int j = 0; j < N; ++j) {
                store(context + m * context_width_ + j * LANES, sums[m][j]);
            }
        }
    }

    const Call& call_;
    const ops::Attention& with_;
    const KeysValues& kv_;
    Inputs inputs_;
    int64_t batch_;
    int head_, count_, context_width_;
    float *scores_, *context_, *most_, *total_, *slope_;
    Element* block_;
    int64_t slot_[MOST];
    Seen seen_[MOST];
};

namespace ops {

// The largest score, the sum of weights, and the context of a query in a part.
struct Partial {
    float most, total;
    const float* context;
};

// Puts the parts of a query together.
inline void finish(float* y, const Partial* parts, int count, int width,
                   const Element* sink) {
    float most = sink ? widen(*sink) : -std::numeric_limits<float>::infinity();
    for (int i = 0; i < count; ++i) most = std::max(most, parts[i].most);
    float total = sink ? std::exp(widen(*sink) - most) : 0;
    std::fill(y, y + width, 0.0f);
    for (int i = 0; i < count; ++i) {
        float weight = std::exp(parts[i].most - most);
        if (weight == 0) continue;
        total += weight * parts[i].total;
        for (int at = 0; at < width; ++at) y[at] += weight * parts[i].context[at];
    }
    for (int at = 0; at < width; ++at) y[at] /= total;
}

// Attention of a call, cut into works: for each head of keys, tiles of tokens (and where
// its group is large, pieces of that), and parts of the slots.
class Work {
  public:
    Work(Call& call, Rows q, KeysValues kv, const Attention& with)
        : call_(call), q_(q), kv_(kv), with_(with), inputs_(inputs(call, q)),
          group_(q.heads / kv.heads), heads_(std::min(group_, Queries::MOST)),
          pieces_((group_ + heads_ - 1) / heads_),
          context_((kv.value_width + LANES - 1) / LANES * LANES) {
        tokens_ = std::clamp(Queries::MOST / group_, 1, int(call.tokens));
        tiles_ = int((call.tokens + tokens_ - 1) / tokens_);
        int64_t works = call.batch * kv.heads * pieces_ * tiles_;
        int64_t total = call.past + call.tokens;
        int64_t wanted = works >= 4 * call.threads ? 1 : 4 * call.threads / works + 1;
        slots_ = std::max<int64_t>(256, (total + wanted - 1) / wanted);
        parts_ = int((total + slots_ - 1) / slots_);
        count_ = works * parts_;
        partials_ = call.take<Partial>(call.rows * q.heads * parts_);
        contexts_ = call.take<float>(call.rows * q.heads * parts_ * context_);
    }

    int64_t count() const { return count_; }
    int parts() const { return parts_; }

    const Partial* partials(int64_t row, int head) const {
        return partials_ + (row * q_.heads + head) * parts_;
    }

    void run(int64_t index) const {
        int part = int(index % parts_);
        index /= parts_;
        int64_t token = index % tiles_ * tokens_;
        index /= tiles_;
        int piece = int(index % pieces_);
        index /= pieces_;
        int head = int(index % kv_.heads);
        int64_t batch = index / kv_.heads;
        int first = head * group_ + piece * heads_;
        int heads = std::min(heads_, (head + 1) * group_ - first);
        int count = heads * int(std::min<int64_t>(tokens_, call_.tokens - token));

        int64_t stride = (kv_.key_width + LANES - 1) / LANES * LANES;
        float* memory = scratch<float>(Queries::floats(kv_) + count * stride);
        auto* rows = reinterpret_cast<Input*>(memory + Queries::floats(kv_));
        Queries queries(call_, with_, kv_, {rows, stride}, batch, head, count, memory);
        for (int i = 0; i < count; ++i) {
            int64_t row = batch * call_.tokens + token + i / heads;
            int query = first + i % heads;
            std::memcpy(rows + i * stride, inputs_[row] + query * kv_.key_width,
                        kv_.key_width * sizeof(Input));
            queries.set(i, call_.past + token + i / heads, query);
        }
        attend(queries, part);
        for (int i = 0; i < count; ++i) {
            int64_t row = batch * call_.tokens + token + i / heads;
            keep(queries, i, (row * q_.heads + first + i % heads) * parts_ + part);
        }
    }

  private:
    void attend(Queries& queries, int part) const {
        int64_t begin = std::max(queries.first_slot(), part * slots_);
        int64_t end = std::min(queries.last_slot(), (part + 1) * slots_);
        if (part == 0) queries.attend(0, std::min<int64_t>(with_.learned, begin));
        queries.attend(begin, end);
    }

    void keep(const Queries& queries, int i, int64_t at) const {
        float* context = contexts_ + at * context_;
        std::memcpy(context, queries.context(i), kv_.value_width * sizeof(float));
        partials_[at] = {queries.most(i), queries.total(i), context};
    }

    Call& call_;
    Rows q_;
    KeysValues kv_;
    const Attention& with_;
    Inputs inputs_;
    int group_, heads_, pieces_, context_, tokens_, tiles_, parts_;
    int64_t slots_, count_;
    Partial* partials_;
    float* contexts_;
};

// Queries [rows, heads, key width] of the newest slots -> contexts.
inline void attention(Call& call, Rows y, Rows q, KeysValues kv, Attention with) {
    Scope scope(call);
    Work work(call, q, kv, with);
    call.parallel(work.count(), 1, [&](int64_t at, int64_t) { work.run(at); });
    call.each_row(y.width * work.parts(), [&](int64_t row) {
        for (int head = 0; head < q.heads; ++head) {
            finish(y[row] + head * kv.value_width, work.partials(row, head),
                   work.parts(), kv.value_width, with.sinks ? with.sinks + head : nullptr);
        }
    });
}

}  // namespace ops
