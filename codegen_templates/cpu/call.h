// One call of the model: what it is given, the memory it computes in, and its threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <memory>
#include <vector>

#include "pool.h"
#include "vector.h"

// Values of all tokens of the call, a row for each: `heads` side by side.
struct Rows {
    float* data;
    int64_t stride;  // from row to row
    int width;       // of a row, all heads together
    int heads = 1;

    float* operator[](int64_t row) const { return data + row * stride; }
    int head_width() const { return width / heads; }
};

inline Rows heads_of(Rows x, int n) { return {x.data, x.stride, x.width, n}; }

// Channels [begin, begin + width) of every row.
inline Rows channels(Rows x, int begin, int width) {
    return {x.data + begin, x.stride, width};
}

// Memory that is taken in order and given back at the end of a scope.
class Arena {
  public:
    struct Mark {
        size_t block, used;
    };

    void* take(size_t bytes) {
        bytes = (bytes + 63) / 64 * 64;
        while (at_.block < blocks_.size() &&
               at_.used + bytes > blocks_[at_.block].size) {
            at_ = {at_.block + 1, 0};
        }
        if (at_.block == blocks_.size()) add(std::max(bytes, SIZE));
        void* found = blocks_[at_.block].memory.get() + at_.used;
        at_.used += bytes;
        return found;
    }

    Mark mark() const { return at_; }
    void release(Mark mark) { at_ = mark; }

    // Keeps what a token needs, and not what a prompt did.
    void trim() {
        at_ = {0, 0};
        if (blocks_.size() > 1) blocks_.resize(1);
        if (!blocks_.empty() && blocks_[0].size > SIZE) blocks_.clear();
    }

  private:
    static constexpr size_t SIZE = 8 << 20;
    struct Free {
        void operator()(char* memory) const { std::free(memory); }
    };
    struct Block {
        std::unique_ptr<char, Free> memory;
        size_t size;
    };

    void add(size_t size) {
        size = (size + 63) / 64 * 64;
        auto* memory = static_cast<char*>(std::aligned_alloc(64, size));
        if (!memory) throw std::bad_alloc();
        blocks_.push_back({std::unique_ptr<char, Free>(memory), size});
    }

    std::vector<Block> blocks_;
    Mark at_{0, 0};
};

// Thrown where a step of the reference raised in Python, which knows why.
struct Stopped {};

// Runs a step of reference.py on values of the call; 0 where it raised.
using Reference = int (*)(int step, int layer, int64_t tokens, float* const* values,
                          const int64_t* strides);

// The arguments of a call, as engine.py lays them out.
struct Arguments {
    int64_t batch, tokens;
    int64_t past;       // slots of the cache that are filled
    int64_t capacity;   // slots that there are
    int64_t keep;       // the last tokens of each row whose logits are wanted
    int64_t threads;
    const int64_t* ids;      // [batch, tokens]
    const int64_t* pos;      // [batch, tokens]
    const int32_t* start;    // [batch], the first slot that is no padding; or null
    const int32_t* prefix;   // [batch], the end of what sees itself; or null
    float* logits;           // [batch, keep, vocabulary]
    const void* const* weights;
    void* const* states;
    Reference reference;
};

struct Call : Arguments {
    Arena& arena;
    int64_t rows;

    Call(const Arguments& given, Arena& memory)
        : Arguments(given), arena(memory), rows(given.batch * given.tokens) {}

    // Makes values of so many channels, at the end of whose rows a vector still fits.
    Rows make(int width, int heads = 1) {
        int64_t stride = (width + LANES - 1) / LANES * LANES;
        return {take<float>(rows * stride), stride, width, heads};
    }

    template <class T>
    T* take(int64_t count) {
        return static_cast<T*>(arena.take(count * sizeof(T)));
    }

    // Pointers to parameters, and to what layers keep, as the structs of the model.
    template <class T>
    const T& weights_from(int at) const {
        return *reinterpret_cast<const T*>(weights + at);
    }
    template <class T>
    const T& states_from(int at) const {
        return *reinterpret_cast<const T*>(states + at);
    }

    // The call of the last tokens of each row, whose logits are wanted.
    Call last() const {
        Arguments given = *this;
        given.past += tokens - keep;
        given.tokens = keep;
        return Call(given, arena);
    }

    // Shares `work(begin, end)` out over [0, count), `grain` at a time.
    template <class Work>
    void parallel(int64_t count, int64_t grain, const Work& work) const {
        struct Job {
            const Work& work;
            int64_t count, grain;
        } job{work, count, std::max<int64_t>(1, grain)};
        auto chunk = [](const void* of, int i) {
            const Job& job = *static_cast<const Job*>(of);
            int64_t begin = i * job.grain;
            job.work(begin, std::min(begin + job.grain, job.count));
        };
        int chunks = int((count + job.grain - 1) / job.grain);
        Pool::shared().run(int(threads), chunks, chunk, &job);
    }

    // Calls `work(row)` for every row; few channels in all are not worth a thread.
    template <class Work>
    void each_row(int64_t channels, const Work& work) const {
        int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, channels));
        parallel(rows, grain, [&](int64_t begin, int64_t end) {
            for (int64_t row = begin; row < end; ++row) work(row);
        });
    }

    // Runs what has no kernel here, of a layer or (-1) around them; the results are given
    // after the operands.
    void step(int number, int layer, std::initializer_list<Rows> values) const {
        float* data[32];
        int64_t strides[32];
        int n = 0;
        for (const Rows& one : values) {
            data[n] = one.data;
            strides[n++] = one.stride;
        }
        if (!reference(number, layer, tokens, data, strides)) throw Stopped();
    }
};

// Gives back what is taken within it.
class Scope {
  public:
    explicit Scope(Call& call) : arena_(call.arena), mark_(arena_.mark()) {}
    ~Scope() { arena_.release(mark_); }
    Scope(const Scope&) = delete;

  private:
    Arena& arena_;
    Arena::Mark mark_;
};

// The last tokens of each row, those of `call.last()`.
inline Rows last_rows(Call& call, Rows x) {
    if (call.keep == call.tokens) return x;
    Rows last = x;
    if (call.batch == 1) {
        last.data = x[call.tokens - call.keep];
        return last;
    }
    last.stride = (x.width + LANES - 1) / LANES * LANES;
    last.data = call.take<float>(call.batch * call.keep * last.stride);
    for (int64_t row = 0; row < call.batch * call.keep; ++row) {
        int64_t from = row / call.keep * call.tokens + call.tokens - call.keep;
        std::memcpy(last[row], x[from + row % call.keep], x.width * sizeof(float));
    }
    return last;
}

// Memory of a thread for the time of a chunk; what it held before is overwritten.
template <class T>
inline T* scratch(size_t count) {
    thread_local std::vector<char> memory;
    size_t bytes = count * sizeof(T) + 64;
    if (memory.size() < bytes) memory.resize(bytes);
    auto at = (reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64;
    return reinterpret_cast<T*>(at);
}

// Numbers in fp32, whatever the model is loaded in.
struct Floats {
    const float* data;
    operator const float*() const { return data; }
};

// A parameter of n numbers, or of rows of them, in fp32 whatever the model is loaded in.
template <int N>
struct ExactVector {
    const float* data;
    operator const float*() const { return data; }
};
template <int ROWS, int COLS>
struct Exact {
    const float* data;
    operator const float*() const { return data; }
};

// A parameter that only steps of the reference read.
struct Unread {
    const void* data;
};

// A parameter of n numbers.
template <int N>
struct Vector {
    const Element* data;
    operator const Element*() const { return data; }
};
