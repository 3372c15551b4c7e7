// What compiled kernels ask of the runtime. The runtime itself includes nothing else from this folder.
#pragma once
#include <cstddef>
#include <cstdint>

namespace softgpu {

struct Index {
    unsigned x, y, z;
};

// What the running CUDA thread knows about itself.
struct Thread {
    Index thread, block, threads, blocks;
};
// initial-exec: one instruction to read, no call.
extern __thread Thread* current __attribute__((tls_model("initial-exec")));

// A place in a kernel's source, for reports.
struct Where {
    const char* what;
    const char* file;
    int line;
};

// Ends the launch: the host gets `code` (a CUresult) and a text that names kernel, block and thread.
enum Code { ILLEGAL_ADDRESS = 700, ASSERTION = 710, MISALIGNED_ADDRESS = 716, LAUNCH_FAILED = 719 };
[[noreturn]] void fault(Code code, const char* format, ...) __attribute__((format(printf, 2, 3)));

// Waits for all threads of the block; tells how many came with a predicate that is not 0.
int block_barrier(int predicate, Where where);

// An instruction that the lanes of `mask` execute together. Each lane brings its own request, on its own stack,
// and sleeps in `rendezvous` until the last one has called `combine`, which sees them all (those outside `mask`
// are null) and writes every lane's result.
struct Request {
    void (*combine)(Request* const (&lanes)[32]);
    unsigned mask;
    Where where;
};
void rendezvous(Request& request);

// What the runtime combines itself.
struct Shuffle : Request {
    uint64_t value, result;
    int operand, width;
};
void combine_shuffle(Request* const (&lanes)[32]);
void combine_shuffle_up(Request* const (&lanes)[32]);
void combine_shuffle_down(Request* const (&lanes)[32]);
void combine_shuffle_xor(Request* const (&lanes)[32]);

struct Vote : Request {
    int predicate;
    unsigned result;
};
void combine_ballot(Request* const (&lanes)[32]);

void sync_warp(unsigned mask, Where where);

struct MatrixMultiply : Request {
    float* d;
    const uint32_t* a;
    const uint32_t* b;
};
void combine_mma(Request* const (&lanes)[32]);

struct LoadMatrix : Request {
    const void* row;
    uint32_t* result;
};
void combine_ldmatrix(Request* const (&lanes)[32]);
void combine_ldmatrix_trans(Request* const (&lanes)[32]);

// Shared memory. A variable is known by the address of its tag.
struct SharedTag {
    const char* name;
    size_t size, alignment;
};
void* static_shared(const SharedTag& tag);
void* dynamic_shared();

// Faults unless `bytes` at `pointer` lie in the block's shared memory.
void check_shared(const void* pointer, size_t bytes, Where where);

void copy_async(void* shared, const void* global, bool valid, Where where);
void copy_async_commit();
// Does the oldest copy of the groups that a wait for `pending` has to finish and gives its destination; null when
// none is left.
void* copy_async_next(unsigned pending);

// Orders what this thread wrote before what others see after (for ThreadSanitizer; the fence itself is inline).
void thread_fence();

// An entry point that a kernel file registers.
struct Kernel {
    const char* name;
    unsigned threads;
    size_t size, alignment;
    void (*run)(const void* arguments);
};
struct Registration {
    explicit Registration(const Kernel& kernel);
};

}  // namespace softgpu
