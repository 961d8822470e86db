// Runs every kernel on numbers made here and prints the results, so that what a processor
// computes can be held against another's.
#include <cstdio>
#include <string>

#include "harness.cpp"

namespace {

uint32_t seed = 1;

// Between -1 and 1, and the same wherever it runs.
float number() {
    seed = seed * 1664525u + 1013904223u;
    return float(int32_t(seed >> 8) - (1 << 23)) / float(1 << 23);
}

template <class T>
struct Numbers {
    std::vector<T> all;
    explicit Numbers(size_t count, float scale = 1) : all(count + 64) {
        for (T& one : all) {
            T some[LANES];
            store(some, broadcast(number() * scale));
            one = some[0];
        }
    }
    T* data() { return all.data(); }
};
using Floats32 = Numbers<float>;
using Elements = Numbers<Element>;

void print(const std::string& what, const float* y, int64_t count) {
    std::printf("%s", what.c_str());
    for (int64_t i = 0; i < count; ++i) std::printf(" %.6g", y[i]);
    std::printf("\n");
}

// A call of `rows` tokens of two rows of the batch, each value with so many channels.
struct Scene {
    Arguments a{};
    std::vector<std::vector<float>> values;
    std::vector<View> views;
    int32_t start[2] = {0, 1};

    Scene(int64_t tokens, std::initializer_list<std::pair<int, int>> shapes, int64_t past = 0,
          bool padded = false) {
        a.batch = 2, a.tokens = tokens, a.past = past, a.keep = tokens, a.threads = 2;
        a.capacity = past + tokens + 3;
        if (padded) a.start = start;
        for (auto [width, heads] : shapes) {
            values.emplace_back(2 * tokens * width + 64);
            for (float& one : values.back()) one = number();
        }
        int at = 0;
        for (auto [width, heads] : shapes) views.push_back({values[at++].data(), width, heads});
    }
    void show(const std::string& what, int i = 0) {
        print(what, values[i].data(), 2 * a.tokens * views[i].width);
    }
};

void products() {
    for (int tokens : {1, 4, 13}) {
        for (auto [out, cols] : {std::pair{16, 32}, {33, 70}, {160, 130}}) {
            Scene s(tokens, {{out, 1}, {cols, 1}});
            Elements w((out + 15) / 16 * 16 * cols), bias(out);
            try_linear(&s.a, s.views.data(), w.data(), out, bias.data());
            s.show("linear");
            for (int bits : {8, 4}) {
                int width = 64, groups = 2, padded = (out + 15) / 16 * 16;
                Scene c(tokens, {{out, 1}, {width, 1}});
                std::vector<uint8_t> codes(padded * width);
                for (auto& one : codes) one = uint8_t(number() * 127 + 128);
                std::vector<int8_t> zeros(padded * groups);
                for (auto& one : zeros) one = int8_t(number() * 7);
                Elements scales(padded * groups, 0.01f);
                try_quantized_linear(&c.a, c.views.data(), codes.data(), out, bits,
                                     scales.data(), zeros.data(), groups, bias.data());
                c.show("codes");
            }
        }
    }
}

void pointwise() {
    for (int width : {7, 16, 37}) {
        Elements w(width), bias(width);
        Scene s(3, {{width, 1}, {width, 1}, {width, 1}});
        try_rms_norm(&s.a, s.views.data(), w.data(), 1e-5f, true);
        s.show("rms_norm");
        try_layer_norm(&s.a, s.views.data(), w.data(), bias.data(), 1e-5f, false);
        s.show("layer_norm");
        for (int fn = 0; fn <= ops::softplus; ++fn) {
            try_pointwise(&s.a, s.views.data(), 4, fn, 0);
            s.show("gate");
        }
        Scene t(3, {{36, 2}, {36, 2}, {8, 1}, {8, 1}});
        try_rope(&t.a, t.views.data(), width % 2, 1, 1, false);
        t.show("rope");
    }
}

void attention(int64_t past, int64_t tokens, bool padded) {
    for (auto [key, value] : {std::pair{16, 16}, {10, 24}}) {
        Scene s(tokens, {{4 * value, 1}, {4 * key, 4}}, past, padded);
        Elements keys(2 * 2 * s.a.capacity * key), values(2 * 2 * s.a.capacity * value);
        KeysValues kv{keys.data(), values.data(), 2, key, value, value};
        Scene n(tokens, {{2 * key, 2}, {2 * value, 2}}, past);
        try_kv_write(&n.a, n.views.data(), &kv);
        Elements sinks(4);
        for (ops::Attention with : {ops::Attention{.scale = 0.3f},
                                    ops::Attention{.sinks = sinks.data(), .scale = 0.3f,
                                                   .window = 5, .softcap = 2}}) {
            try_attention(&s.a, s.views.data(), &kv, &with);
            s.show("attention");
        }
    }
    Scene l(tokens, {{32, 1}, {8, 1}}, past, padded);
    Elements slots(2 * l.a.capacity * 40), kv_b(4 * 24 * 32);
    try_latent_write(&l.a, l.views.data(), slots.data());
    Scene q(tokens, {{4 * 14, 1}, {4 * 18, 4}}, past, padded);
    ops::LatentAttention with{.scale = 0.3f, .window = 6};
    try_latent_attention(&q.a, q.views.data(), slots.data(), 40, kv_b.data(), 96, 32, &with);
    q.show("latent_attention");
}

void mixtures(int64_t tokens) {
    Floats32 w(32 * 48), bias(32);
    Scene r(tokens, {{3, 1}, {3, 1}, {48, 1}});
    ops::MoeRouter router{.bias = bias.data(), .top_k = 3, .score = ops::sigmoid_,
                          .groups = 4, .top_groups = 2, .renormalise = true};
    try_router(&r.a, r.views.data(), w.data(), 32, &router);
    r.show("router", 0);
    r.show("router", 1);
    Scene s(tokens, {{48, 1}, {48, 1}, {3, 1}, {3, 1}});
    s.values[2] = r.values[0];
    s.views[2].data = s.values[2].data();
    Elements up(32 * 64 * 48), down(32 * 48 * 32);
    ops::MoeExperts with{.fn = ops::silu, .alpha = 1.7f, .limit = 0.7f};
    try_experts(&s.a, s.views.data(), up.data(), 64, down.data(), 32, 32, &with);
    s.show("experts");
}

void scans(int64_t past, int64_t tokens, bool padded) {
    Scene c(tokens, {{21, 1}, {21, 1}}, past, padded);
    Elements taps(21 * 4), kept(2 * 21 * 4), bias(21);
    try_short_conv(&c.a, c.views.data(), taps.data(), kept.data(), 4, bias.data(), ops::silu);
    c.show("short_conv");
    for (int width : {64, 32, 21}) {
        Scene s(tokens, {{4 * width, 1}, {32, 2}, {32, 2}, {4 * width, 4}, {4, 1}, {4, 1}},
                past, padded);
        for (float& g : s.values[4]) g = -std::fabs(g);
        Floats32 state(2 * 4 * 16 * width);
        try_scan(&s.a, s.views.data(), state.data(), 16, width, 0.5f, 1);
        s.show("scan");
    }
    Scene m(tokens, {{5, 1}, {5, 1}, {5, 1}, {20, 1}, {20, 1}}, past, padded);
    Floats32 a_log(5 * 20), skip(5), state(2 * 5 * 20);
    try_selective_scan(&m.a, m.views.data(), a_log.data(), skip.data(), state.data());
    m.show("selective_scan");
    Scene g(tokens, {{40, 1}, {40, 1}, {40, 1}}, past, padded);
    Elements w(40);
    try_gated_norm(&g.a, g.views.data(), w.data(), 40, 1e-5f, ops::silu, 0, 2);
    g.show("gated_norm");
}

}  // namespace

int main() {
    products();
    pointwise();
    for (bool padded : {false, true}) {
        for (auto [past, tokens] : {std::pair{0, 9}, {5, 1}, {300, 3}}) {
            attention(past, tokens, padded && !past);
            scans(past, tokens, padded && !past);
        }
    }
    for (int tokens : {1, 17}) mixtures(tokens);
}
