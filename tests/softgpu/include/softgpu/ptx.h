// The functions of kernels/common/ptx.cuh, which says what they do.
#pragma once
#include "kernel.h"
#include "types.h"

namespace softgpu {

// Reads 16 bytes where a sanitizer can see it.
static inline void touch(const void* pointer) {
#ifdef SOFTGPU_SANITIZED
    const volatile uint64_t* words = static_cast<const volatile uint64_t*>(pointer);
    (void)words[0];
    (void)words[1];
#else
    (void)pointer;
#endif
}

static inline void load_matrix(void (*combine)(Request* const (&)[32]), uint32_t (&r)[4], const void* row,
                               Where where) {
    check_shared(row, 16, where);
    touch(row);
    LoadMatrix request;
    request.combine = combine;
    request.mask = 0xffffffffu;
    request.where = where;
    request.row = row;
    request.result = r;
    rendezvous(request);
}

}  // namespace softgpu

static inline void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                SOFTGPU_WHERE("mma_16x8x16")) {
    softgpu::MatrixMultiply request;
    request.combine = softgpu::combine_mma;
    request.mask = 0xffffffffu;
    request.where = where;
    request.d = d;
    request.a = a;
    request.b = b;
    softgpu::rendezvous(request);
}

static inline void ldmatrix_x4(uint32_t (&r)[4], const __nv_bfloat16* row, SOFTGPU_WHERE("ldmatrix_x4")) {
    softgpu::load_matrix(softgpu::combine_ldmatrix, r, row, where);
}
static inline void ldmatrix_x4_trans(uint32_t (&r)[4], const __nv_bfloat16* row, SOFTGPU_WHERE("ldmatrix_x4_trans")) {
    softgpu::load_matrix(softgpu::combine_ldmatrix_trans, r, row, where);
}

static inline void copy_async_16(void* shared, const void* global, bool valid, SOFTGPU_WHERE("copy_async_16")) {
    softgpu::copy_async(shared, global, valid, where);
#ifdef SOFTGPU_SANITIZED
    if (valid) softgpu::touch(global);
    // The poison again, as a write that a sanitizer sees.
    volatile uint64_t* words = static_cast<volatile uint64_t*>(shared);
    words[0] = words[1] = ~uint64_t{0};
#endif
}
static inline void copy_async_commit() { softgpu::copy_async_commit(); }
template <int PENDING> static inline void copy_async_wait() {
    while (void* shared = softgpu::copy_async_next(PENDING)) {
#ifdef SOFTGPU_SANITIZED
        volatile uint64_t* words = static_cast<volatile uint64_t*>(shared);
        words[0] = words[0];
        words[1] = words[1];
#else
        (void)shared;
#endif
    }
}
