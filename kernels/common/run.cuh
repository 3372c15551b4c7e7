// Runs: eight neighbouring elements of a row in a lane's registers, the unit in which rows are moved. D is a
// multiple of 16, so rows are whole runs, each aligned to 16 bytes; a run is also what one Philox block decides
// (hidden_dropout_block).
#pragma once
#include "kernel.cuh"

constexpr int RUN = 8;

struct Run {
    float at[RUN];
    __device__ void operator+=(const Run& other) {
#pragma unroll
        for (int i = 0; i < RUN; ++i) at[i] += other.at[i];
    }
};

// Reads or writes a run by 16-byte accesses, one in bf16, two in float.
template <class S> __device__ inline Run load_run(const S* from) {
    constexpr int PACK = Pack<S>::COUNT;
    Run run;
#pragma unroll
    for (int i = 0; i < RUN; i += PACK) {
        const Pack<S> pack = load_pack(from + i);
#pragma unroll
        for (int k = 0; k < PACK; ++k) run.at[i + k] = to_float(pack.at[k]);
    }
    return run;
}
template <class S> __device__ inline void store_run(S* to, const Run& run) {
    constexpr int PACK = Pack<S>::COUNT;
#pragma unroll
    for (int i = 0; i < RUN; i += PACK) {
        Pack<S> pack;
#pragma unroll
        for (int k = 0; k < PACK; ++k) pack.at[k] = from_float<S>(run.at[i + k]);
        store_pack(to + i, pack);
    }
}

// Zeros where `valid` is false, and then nothing is read.
template <class S> __device__ inline Run load_run_if(bool valid, const S* from) {
    return valid ? load_run(from) : Run{};
}
