// The calls that a running kernel makes.
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "block.h"
#include "memory.h"
#include "order.h"

namespace softgpu {
namespace {

void check_aligned(const void* pointer, Where where) {
    if ((reinterpret_cast<uintptr_t>(pointer) & 15u) == 0) return;
    fault(MISALIGNED_ADDRESS, "%s: address %p is no multiple of 16", describe(where).c_str(), pointer);
}

}  // namespace

void fault(Code code, const char* format, ...) {
    char text[1024];
    va_list list;
    va_start(list, format);
    std::vsnprintf(text, sizeof text, format, list);
    va_end(list);
    if (running_block == nullptr) {
        std::fprintf(stderr, "softgpu: outside a kernel: %s\n", text);
        std::abort();
    }
    running_block->fail(code, text);
}

int block_barrier(int predicate, Where where) { return running_block->barrier(predicate, where); }
void rendezvous(Request& request) { running_block->rendezvous(request); }
void sync_warp(unsigned mask, Where where) { running_block->sync_warp(mask, where); }

void* static_shared(const SharedTag& tag) {
    void* memory = running_block->arena().variable(tag);
    if (memory == nullptr) {
        fault(LAUNCH_FAILED, "%s: more than %zu bytes of static shared memory, or than %zu with dynamic", tag.name,
              STATIC_LIMIT, DYNAMIC_LIMIT);
    }
    return memory;
}
void* dynamic_shared() { return running_block->arena().dynamic(); }

void check_shared(const void* pointer, size_t bytes, Where where) {
    check_aligned(pointer, where);
    if (running_block->arena().holds(pointer, bytes)) return;
    fault(ILLEGAL_ADDRESS, "%s: %p is not in the shared memory of the block", describe(where).c_str(), pointer);
}

void copy_async(void* shared, const void* global, bool valid, Where where) {
    check_shared(shared, 16, where);
    check_aligned(global, where);
    if (valid && !is_allocated(global, 16)) {
        fault(ILLEGAL_ADDRESS, "%s: reads 16 bytes at %s", describe(where).c_str(), describe_address(global).c_str());
    }
    // What it holds until the copy has been waited for: NaN as float and as bf16.
    std::memset(shared, 0xff, 16);
    Fiber& fiber = running_block->running();
    fiber.copies.push_back({shared, global, valid});
    fiber.uncommitted += 1;
}

void copy_async_commit() {
    Fiber& fiber = running_block->running();
    fiber.groups.push_back(fiber.uncommitted);
    fiber.uncommitted = 0;
}

void* copy_async_next(unsigned pending) {
    Fiber& fiber = running_block->running();
    while (fiber.groups.size() > pending && fiber.groups.front() == 0) fiber.groups.erase(fiber.groups.begin());
    if (fiber.groups.size() <= pending) return nullptr;
    fiber.groups.front() -= 1;
    const Copy copy = fiber.copies.front();
    fiber.copies.erase(fiber.copies.begin());
    if (copy.valid) {
        std::memcpy(copy.shared, copy.global, 16);
    } else {
        std::memset(copy.shared, 0, 16);
    }
    return copy.shared;
}

void thread_fence() {
    static char token;
    order_release(&token);
    order_acquire(&token);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

}  // namespace softgpu
