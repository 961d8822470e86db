// Threads that share out the chunks of a piece of work.
//
// A chunk is claimed by whoever is free, the calling thread too, and the work is done
// when all chunks are: a thread that the system holds up delays nobody. Between two
// pieces a thread looks for the next for some microseconds and then sleeps.
#pragma once

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

class Pool {
  public:
    using Chunk = void (*)(const void* work, int chunk);

    static Pool& shared() {
        static Pool* pool = new Pool;  // its threads outlive what ends a process
        return *pool;
    }

    // Calls `chunk(work, i)` for i in [0, count), on at most so many threads.
    void run(int threads, int count, Chunk chunk, const void* work) {
        if (threads <= 1 || count <= 1) {
            for (int i = 0; i < count; ++i) chunk(work, i);
            return;
        }
        start(threads - 1);
        uint64_t epoch = (tickets_.load(std::memory_order_relaxed) >> EPOCH) + 1;
        // Closed first: who comes late from the last work must not claim of this one
        // while it is being written down.
        tickets_.store(epoch << EPOCH | CLOSED, std::memory_order_relaxed);
        std::atomic_thread_fence(std::memory_order_release);
        chunk_.store(chunk, std::memory_order_relaxed);
        work_.store(work, std::memory_order_relaxed);
        count_.store(count, std::memory_order_relaxed);
        helpers_.store(threads - 1, std::memory_order_relaxed);
        done_.store(0, std::memory_order_relaxed);
        tickets_.store(epoch << EPOCH, std::memory_order_release);
        signal_.store(uint32_t(epoch), std::memory_order_seq_cst);
        if (asleep_.load(std::memory_order_seq_cst)) signal_.notify_all();
        help(epoch);
        for (int spins = 0; done_.load(std::memory_order_acquire) < count; ++spins) {
            if (spins < SPINS) relax(); else std::this_thread::yield();
        }
    }

  private:
    static constexpr int EPOCH = 32, SPINS = 1500;
    static constexpr uint64_t CLOSED = 0x7fffffff;

    static void relax() {
#if defined(__x86_64__)
        _mm_pause();
#elif defined(__aarch64__)
        asm volatile("yield");
#endif
    }

    void start(int helpers) {
        if (started_ >= helpers) return;
        static std::once_flag once;
        // A forked child has no threads but its own.
        std::call_once(once, [] {
            pthread_atfork(nullptr, nullptr, [] { shared().started_ = 0; });
        });
        for (; started_ < helpers; ++started_) {
            std::thread([this, rank = started_] { serve(rank); }).detach();
        }
    }

    void serve(int rank) {
        uint32_t seen = 0;
        for (;;) {
            seen = next(seen);
            if (rank < helpers_.load(std::memory_order_relaxed)) {
                help(tickets_.load(std::memory_order_acquire) >> EPOCH);
            }
        }
    }

    // Waits until there is other work than was seen.
    uint32_t next(uint32_t seen) {
        for (int spins = 0; spins < SPINS; ++spins) {
            uint32_t now = signal_.load(std::memory_order_acquire);
            if (now != seen) return now;
            relax();
        }
        asleep_.fetch_add(1, std::memory_order_seq_cst);
        signal_.wait(seen, std::memory_order_seq_cst);
        asleep_.fetch_sub(1, std::memory_order_relaxed);
        return signal_.load(std::memory_order_acquire);
    }

    // Claims chunks of an epoch while there are any. What to do is read before a claim:
    // a claim that succeeds proves that the epoch was still going on.
    void help(uint64_t epoch) {
        uint64_t ticket = tickets_.load(std::memory_order_acquire);
        while (ticket >> EPOCH == epoch) {
            Chunk chunk = chunk_.load(std::memory_order_relaxed);
            const void* work = work_.load(std::memory_order_relaxed);
            int count = count_.load(std::memory_order_relaxed);
            std::atomic_thread_fence(std::memory_order_acquire);
            int at = int(uint32_t(ticket));
            if (at >= count) return;
            if (!tickets_.compare_exchange_weak(ticket, ticket + 1,
                                                std::memory_order_acq_rel)) {
                continue;
            }
            chunk(work, at);
            done_.fetch_add(1, std::memory_order_release);
            ticket = tickets_.load(std::memory_order_acquire);
        }
    }

    alignas(64) std::atomic<uint64_t> tickets_{0};  // epoch, and its next free chunk
    alignas(64) std::atomic<int> done_{0};
    alignas(64) std::atomic<uint32_t> signal_{0};  // the epoch, for those who sleep
    std::atomic<int> asleep_{0};
    std::atomic<Chunk> chunk_{nullptr};
    std::atomic<const void*> work_{nullptr};
    std::atomic<int> count_{0}, helpers_{0};
    int started_ = 0;
};
