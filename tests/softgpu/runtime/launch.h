// A launch as the scheduler executes it.
#pragma once
#include <atomic>
#include <mutex>
#include <string>

#include "softgpu/runtime.h"

namespace softgpu {

struct Launch {
    const Kernel* kernel;
    Index blocks, threads;
    size_t dynamic_shared;
    const void* arguments;
    uint64_t seed;

    // The first fault: 0, or a CUresult and a sentence.
    std::mutex mutex;
    std::atomic<int> code{0};
    std::string report;
    void fail(int code, const std::string& report);
};

// Runs all blocks in random order, each with its threads in random order.
void execute(Launch& launch);

// Random numbers for the order of things (splitmix64).
struct Random {
    uint64_t state;
    uint64_t next() {
        uint64_t z = (state += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    // One of the bits that are set in `mask`, which is not 0.
    unsigned pick(unsigned mask) {
        const unsigned turn = next() & 31u;
        const unsigned turned = (mask >> turn) | (mask << ((32 - turn) & 31u));
        return (static_cast<unsigned>(__builtin_ctz(turned)) + turn) & 31u;
    }
};

}  // namespace softgpu
