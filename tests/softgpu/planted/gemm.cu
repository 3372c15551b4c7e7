// The matrix product of gemm.cuh, right and with something missing.
#include "gemm.cuh"

KERNEL(gemm_nt, THREADS, 1, Gemm, (gemm_body<false, NOTHING>))
KERNEL(gemm_nn, THREADS, 1, Gemm, (gemm_body<true, NOTHING>))
KERNEL(gemm_without_wait, THREADS, 1, Gemm, (gemm_body<false, WAIT>))
KERNEL(gemm_without_barrier_after_wait, THREADS, 1, Gemm, (gemm_body<false, BARRIER_AFTER_WAIT>))
KERNEL(gemm_without_barrier_before_copy, THREADS, 1, Gemm, (gemm_body<false, BARRIER_BEFORE_COPY>))
