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

template <class Word>
void pack(char* to, const char* from, int64_t rows, int64_t words, int threads) {
    struct Job {
        char* to;
        const char* from;
        int64_t rows, words;
    } job{to, from, rows, words};
    auto chunk = [](const void* of, int block) {
        const Job& job = *static_cast<const Job*>(of);
        int64_t bytes = job.words * sizeof(Word), at = block * LANES * bytes;
        int height = int(std::min<int64_t>(LANES, job.rows - block * LANES));
        char* before = scratch<char>(height * bytes);
        std::memcpy(before, job.from + at, height * bytes);
        pack_block<Word>(job.to + at, before, height, int(job.words));
    };
    Pool::shared().run(threads, int((rows + LANES - 1) / LANES), chunk, &job);
}

// Packs rows of words of 1, 2 or 4 bytes into blocks. Whole blocks of 16 rows take the
// bytes that they had, so `to` may be `from`.
extern "C" void glmc_pack(char* to, const char* from, int64_t rows, int64_t words,
                          int64_t word, int64_t threads) {
    if (word == 1) return pack<uint8_t>(to, from, rows, words, int(threads));
    if (word == 2) return pack<uint16_t>(to, from, rows, words, int(threads));
    pack<uint32_t>(to, from, rows, words, int(threads));
}

// Puts the rows of blocks back in order.
extern "C" void glmc_unpack(char* to, const char* from, int64_t rows, int64_t words,
                            int64_t word) {
    for (int64_t row = 0; row < rows; ++row) {
        const char* at = from + (row / LANES * words * LANES + row % LANES) * word;
        for (int64_t i = 0; i < words; ++i, to += word) {
            std::memcpy(to, at + i * LANES * word, word);
        }
    }
}
