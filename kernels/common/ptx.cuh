// Every instruction that C++ has no name for, in one place: the Ampere set, which runs on everything since sm_80.
// The software GPU has its own versions, which act on all lanes of a warp as the instructions do.
#pragma once
#include "kernel.cuh"

#ifdef __CUDACC__

__device__ inline uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// d[16 x 8] += a[16 x 16] b[16 x 8], bf16 into float. With g = lane / 4 and t = lane % 4 a lane holds
//   d: (g, 2t) (g, 2t+1) (g+8, 2t) (g+8, 2t+1)
//   a: pairs along k at (g, 2t) (g+8, 2t) (g, 2t+8) (g+8, 2t+8)
//   b: pairs along k at (2t, g) (2t+8, g)
__device__ inline void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8 x 8 matrices of bf16 from shared memory. Lane l gives the address of row l % 8 of matrix l / 8 (16
// bytes, aligned to 16) and gets, of each matrix, the pair at (row l / 4, columns 2 (l % 4) and the next).
__device__ inline void ldmatrix_x4(uint32_t (&r)[4], const bf16* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The same with each matrix transposed: a lane gets the pair at (rows 2 (l % 4) and the next, column l / 4).
__device__ inline void ldmatrix_x4_trans(uint32_t (&r)[4], const bf16* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// Starts a copy of 16 bytes from global to shared memory, both aligned to 16; zeros where `valid` is false, and
// then nothing is read.
__device__ inline void copy_async_16(void* shared, const void* global, bool valid) {
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address(shared)), "l"(global), "r"(bytes)
                 : "memory");
}

// Ends a group of copies.
__device__ inline void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `PENDING` of the thread's youngest groups are under way. Other threads' copies are seen
// only after a barrier that follows.
template <int PENDING> __device__ inline void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// 2^x with an error of 2 units in the last place; results below the normal numbers are 0.
__device__ inline float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 1 / x with an error of 1 unit in the last place; 0 of infinity, and where the result is below the normal numbers.
__device__ inline float reciprocal_fast(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#else  // the software GPU defines the same functions in softgpu.h

inline float exp2_fast(float x) { return exp2f(x); }
inline float reciprocal_fast(float x) { return 1.0f / x; }

#endif

// Two floats as a pair of bf16, the first in the low half.
__device__ inline uint32_t pack_bf16(float low, float high) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t*>(&pair);
}
