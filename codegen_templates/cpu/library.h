// What Python calls.
#pragma once

#include <exception>
#include <mutex>
#include <new>

#include "call.h"
#include "product.h"

// Computes a call. 0: done; 1: a step of the reference raised; 2: no memory.
extern "C" int glmc_run(const Arguments* given) {
    static std::mutex one_at_a_time;
    static Arena arena;
    std::lock_guard<std::mutex> lock(one_at_a_time);
    int outcome = 0;
    try {
        Call call(*given, arena);
        run(call);
    } catch (const Stopped&) {
        outcome = 1;
    } catch (const std::bad_alloc&) {
        outcome = 2;
    }
    arena.trim();
    return outcome;
}

// Packs a matrix [rows, cols] into blocks. Whole blocks of 16 rows take the bytes that
// they had, so `to` may be `from`.
extern "C" void glmc_pack(Element* to, const Element* from, int64_t rows, int64_t cols,
                          int64_t threads) {
    struct Job {
        Element* to;
        const Element* from;
        int64_t rows, cols;
    } job{to, from, rows, cols};
    auto chunk = [](const void* of, int block) {
        const Job& job = *static_cast<const Job*>(of);
        int64_t at = int64_t(block) * LANES * job.cols;
        int height = int(std::min<int64_t>(LANES, job.rows - block * LANES));
        Element* before = scratch<Element>(LANES * job.cols);
        std::memcpy(before, job.from + at, height * job.cols * sizeof(Element));
        pack_block(job.to + at, before, height, int(job.cols));
    };
    Pool::shared().run(int(threads), int((rows + LANES - 1) / LANES), chunk, &job);
}

// Puts the rows of blocks back in order.
extern "C" void glmc_unpack(Element* to, const Element* from, int64_t rows,
                            int64_t cols) {
    Matrix matrix{from, int(rows), int(cols)};
    for (int64_t row = 0; row < rows; ++row) {
        for (int64_t col = 0; col < cols; ++col) {
            to[row * cols + col] = from[matrix.at(row, col)];
        }
    }
}
