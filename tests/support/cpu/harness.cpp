// Kernels for CPUs with sizes that are known at run time only, for tests.
#include "attention.h"
#include "codes.h"
#include "elementwise.h"
#include "experts.h"
#include "latent.h"
#include "norms.h"
#include "product.h"
#include "recurrent.h"
#include "rope.h"
#include "router.h"

namespace {
void run(Call&) {}
Arena memory;

struct View {
    float* data;
    int64_t width, heads;
    operator Rows() const { return {data, width, int(width), int(heads)}; }
};
}  // namespace

#include "library.h"

extern "C" {
void try_linear(const Arguments* a, View* v, const Element* w, int64_t rows,
                const Element* bias) {
    Call call(*a, memory);
    Matrix matrix{w, int(rows), int(v[1].width)};
    ops::linear(call, v[0], v[1], matrix, {.bias = bias});
}

void try_embedding(const Arguments* a, View* v, const Element* w, int64_t rows) {
    Call call(*a, memory);
    ops::embedding(call, v[0], a->ids, Matrix{w, int(rows), int(v[0].width)});
}

void try_quantized_linear(const Arguments* a, View* v, const uint8_t* w, int64_t rows,
                          int64_t bits, const Element* scales, const int8_t* zeros,
                          int64_t groups, const Element* bias) {
    Call call(*a, memory);
    Codes codes{w, int(rows), int(v[1].width), int(bits)};
    Grouped<Element> scale{scales, int(groups)};
    ops::quantized_linear(call, v[0], v[1], codes, scale,
                          {.zeros = {zeros, int(groups)}, .bias = bias, .bits = int(bits)});
}

void try_quantized_embedding(const Arguments* a, View* v, const uint8_t* w, int64_t rows,
                             int64_t bits, const Element* scales) {
    Call call(*a, memory);
    Codes codes{w, int(rows), int(v[0].width), int(bits)};
    ops::quantized_embedding(call, v[0], a->ids, codes, {scales, 1}, {.bits = int(bits)});
}

void try_rms_norm(const Arguments* a, View* v, const Element* w, float eps, bool unit) {
    Call call(*a, memory);
    ops::rms_norm(call, v[0], v[1], w, {.eps = eps, .unit_offset = unit});
}

void try_layer_norm(const Arguments* a, View* v, const Element* w, const Element* bias,
                    float eps, bool unit) {
    Call call(*a, memory);
    ops::layer_norm(call, v[0], v[1], w, {.bias = bias, .eps = eps, .unit_offset = unit});
}

void try_pointwise(const Arguments* a, View* v, int op, int fn, float number) {
    Call call(*a, memory);
    auto function = ops::Function(fn);
    switch (op) {
        case 0: return ops::add(call, v[0], v[1], v[2]);
        case 1: return ops::mul(call, v[0], v[1], v[2]);
        case 2: return ops::activation(call, v[0], v[1], {.fn = function});
        case 3: return ops::act_mul(call, v[0], v[1], {.fn = function});
        case 4: return ops::gate(call, v[0], v[1], v[2], {.fn = function});
        case 5: return ops::scale(call, v[0], v[1], {.factor = number});
        case 6: return ops::scale(call, v[0], v[1], {.factor = number, .rounded = true});
        case 7: return ops::clamp(call, v[0], v[1], {.limit = number});
        case 8: return ops::soft_cap(call, v[0], v[1], {.cap = number});
        case 9: return ops::concat(call, v[0], v[1], v[2]);
        case 10: return ops::scale_heads(call, v[0], v[1], v[2]);
        case 11: return ops::zeros_like(call, v[0], v[1]);
    }
}

void try_rope_table(const Arguments* a, View* v, const float* frequencies, float factor) {
    Call call(*a, memory);
    ops::rope_table(call, v[0], v[1], a->pos,
                    {.frequencies = frequencies, .factor = factor});
}

void try_rope(const Arguments* a, View* v, int style, int sections, int first,
              bool reverse) {
    Call call(*a, memory);
    ops::rope(call, v[0], v[1], v[2], v[3],
              {.style = ops::Style(style), .sections = sections, .first = first,
               .reverse = reverse});
}

void try_kv_write(const Arguments* a, View* v, const KeysValues* kv) {
    Call call(*a, memory);
    ops::kv_write(call, *kv, v[0], v[1]);
}

void try_attention(const Arguments* a, View* v, const KeysValues* kv,
                   const ops::Attention* with) {
    Call call(*a, memory);
    ops::attention(call, v[0], v[1], *kv, *with);
}

void try_router(const Arguments* a, View* v, const float* w, int64_t experts,
                const ops::MoeRouter* with) {
    Call call(*a, memory);
    ops::route(call, v[0], v[1], v[2], w, int(experts), *with);
}

void try_experts(const Arguments* a, View* v, const Element* gate_up, int64_t rows,
                 const Element* down, int64_t count, int64_t width,
                 const ops::MoeExperts* with) {
    Call call(*a, memory);
    Stacked in{gate_up, int(count), int(rows), int(v[1].width)};
    Stacked out{down, int(count), int(v[0].width), int(width)};
    ops::moe_experts(call, v[0], v[1], v[2], v[3], in, out, *with);
}

void try_short_conv(const Arguments* a, View* v, const Element* w, Element* kept,
                    int64_t width, const Element* bias, int64_t fn) {
    Call call(*a, memory);
    Kept3<Element> state{kept, int(v[1].width), int(width), 1};
    ops::short_conv(call, v[0], v[1], w, state, {.bias = bias, .fn = int(fn)});
}

void try_scan(const Arguments* a, View* v, float* kept, int64_t keys, int64_t width,
              float scale, int64_t corrects) {
    Call call(*a, memory);
    Kept3<float> state{kept, int(v[3].heads), int(keys), int(width)};
    ops::Scan with{.scale = scale};
    if (corrects) with.beta = v[5];
    ops::scan(call, v[0], v[1], v[2], v[3], v[4], state, with);
}

void try_selective_scan(const Arguments* a, View* v, const float* a_log,
                        const float* skip, float* kept) {
    Call call(*a, memory);
    Kept3<float> state{kept, int(v[1].width), int(v[3].width), 1};
    ops::selective_scan(call, v[0], v[1], v[2], v[3], v[4], a_log, skip, state);
}

// What goes by itself around a scan; `p` has a number for each of 4 heads.
void try_around_scan(const Arguments* a, View* v, int op, const float* p,
                     const float* bias, float number, float high) {
    Call call(*a, memory);
    ExactVector<4> heads{p};
    switch (op) {
        case 0: return ops::l2_normalize(call, v[0], v[1], {.eps = number});
        case 1:
            return ops::step_size(call, v[0], v[1],
                                  {.bias = bias, .low = number, .high = high});
        case 2: return ops::decay(call, v[0], v[1], heads);
        case 3:
            return ops::bounded_decay(call, v[0], v[1], heads,
                                      {.bias = bias, .floor = number});
        case 4: return ops::sigmoid(call, v[0], v[1], {.factor = number});
        case 5: return ops::scale_each(call, v[0], v[1], v[2]);
        case 6: return ops::add_skip(call, v[0], v[1], v[2], heads);
        case 7: return ops::scale_experts(call, v[0], v[1], v[2], heads);
    }
}

void try_gated_norm(const Arguments* a, View* v, const Element* w, int64_t weights,
                    float eps, int64_t fn, int64_t order, int64_t groups) {
    Call call(*a, memory);
    ops::gated(call, v[0], v[1], v[2], w, int(weights),
               {.eps = eps, .fn = ops::Function(fn), .order = int(order),
                .groups = int(groups)});
}

void try_latent_write(const Arguments* a, View* v, Element* slots) {
    Call call(*a, memory);
    ops::latent_write(call, {slots, int(v[0].width + v[1].width)}, v[0], v[1]);
}

void try_latent_attention(const Arguments* a, View* v, Element* slots, int64_t width,
                          const Element* kv_b, int64_t rows, int64_t rank,
                          const ops::LatentAttention* with) {
    Call call(*a, memory);
    ops::attend_latents(call, v[0], v[1], {slots, int(width)}, kv_b, int(rows),
                        int(rank), *with);
}

// `threads` threads add up 0 .. count - 1, `times` over; the sum of the last time.
int64_t try_pool(int threads, int count, int times) {
    std::atomic<int64_t> sum{0};
    auto chunk = [](const void* of, int at) {
        static_cast<std::atomic<int64_t>*>(const_cast<void*>(of))->fetch_add(at);
    };
    for (int i = 0; i < times; ++i) {
        sum = 0;
        Pool::shared().run(threads, count, chunk, &sum);
        if (sum != int64_t(count) * (count - 1) / 2) return -1;
    }
    return sum;
}
}
