// A stack of its own and the switch between two of them.
#pragma once
#include <cstddef>
#include <cstdint>

#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace softgpu {

constexpr size_t PAGE = 4096;
#ifdef SOFTGPU_SANITIZED
constexpr size_t STACK = 256 * 1024;
#else
constexpr size_t STACK = 64 * 1024;
#endif

// Something that can be switched away from and back to: the host's thread or a fiber.
struct Stack {
    unsigned char* bottom = nullptr;
    size_t size = 0;
#ifdef __x86_64__
    void* pointer = nullptr;
#else
    ucontext_t context;
#endif
    bool abandoned = false;      // something was left on it when it was switched away from for good
    void* fake_stack = nullptr;  // AddressSanitizer
    void* tsan = nullptr;        // ThreadSanitizer
};

// Memory for fiber `number`, between two pages that cannot be touched.
void make_stack(Stack& stack, unsigned number);
// The stack of the calling thread of the host.
void adopt_stack(Stack& stack);
// Sets a stack up so that the next switch to it calls `entry`, which must not return.
void prepare_stack(Stack& stack, void (*entry)());
// Continues with `to`; returns when something switches to `from`. `abandon`: it never will.
void switch_stack(Stack& from, Stack& to, bool abandon = false);
// The first thing `entry` calls.
void arrived_on_stack();

}  // namespace softgpu
