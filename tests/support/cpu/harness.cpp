// Kernels for CPUs with sizes that are known at run time only, for tests.
#include "attention.h"
#include "codes.h"
#include "elementwise.h"
#include "norms.h"
#include "product.h"
#include "rope.h"

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
