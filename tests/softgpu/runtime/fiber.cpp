#include "fiber.h"

#include <pthread.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

#if defined(SOFTGPU_ADDRESS)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#elif defined(SOFTGPU_THREAD)
#include <sanitizer/tsan_interface.h>
#endif

namespace softgpu {

#ifdef __x86_64__
// rdi: where to leave the stack pointer, rsi: the one to take. Saves what the System V ABI says a call keeps.
extern "C" void softgpu_switch(void** leave, void* take);
asm(R"(
.text
.globl softgpu_switch
.hidden softgpu_switch
.type softgpu_switch,@function
softgpu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size softgpu_switch,.-softgpu_switch
)");
#endif

void make_stack(Stack& stack, unsigned number) {
    void* map = mmap(nullptr, STACK + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) {
        std::perror("softgpu: no memory for the stack of a thread");
        std::abort();
    }
    stack.bottom = static_cast<unsigned char*>(map) + PAGE;
    // Stacks that all ended at the same place in a page would share a few lines of the cache.
    stack.size = STACK - number % 16 * 256;
    mprotect(stack.bottom, STACK, PROT_READ | PROT_WRITE);
}

void adopt_stack(Stack& stack) {
#ifdef SOFTGPU_SANITIZED  // slow, and nobody else asks
    pthread_attr_t attributes;
    void* bottom = nullptr;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &bottom, &stack.size);
    pthread_attr_destroy(&attributes);
    stack.bottom = static_cast<unsigned char*>(bottom);
#else
    (void)stack;
#endif
#ifdef SOFTGPU_THREAD
    stack.tsan = __tsan_get_current_fiber();
#endif
}

void prepare_stack(Stack& stack, void (*entry)()) {
#ifdef SOFTGPU_ADDRESS
    if (stack.abandoned) __asan_unpoison_memory_region(stack.bottom, stack.size);
#endif
#ifdef SOFTGPU_THREAD
    if (stack.tsan == nullptr) stack.tsan = __tsan_create_fiber(0);
#endif
    stack.abandoned = true;  // until it is known to have been left in order
#ifdef __x86_64__
    void** top = reinterpret_cast<void**>(stack.bottom + stack.size);
    *--top = nullptr;  // keeps the stack pointer as a call would leave it: 8 beside a multiple of 16
    *--top = reinterpret_cast<void*>(entry);
    for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
    stack.pointer = top;
#else
    getcontext(&stack.context);
    stack.context.uc_stack.ss_sp = stack.bottom;
    stack.context.uc_stack.ss_size = stack.size;
    stack.context.uc_link = nullptr;
    makecontext(&stack.context, entry, 0);
#endif
}

void switch_stack(Stack& from, Stack& to, bool abandon) {
#ifdef SOFTGPU_ADDRESS
    __sanitizer_start_switch_fiber(abandon ? nullptr : &from.fake_stack, to.bottom, to.size);
#else
    (void)abandon;
#endif
#ifdef SOFTGPU_THREAD
    __tsan_switch_to_fiber(to.tsan, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef __x86_64__
    softgpu_switch(&from.pointer, to.pointer);
#else
    swapcontext(&from.context, &to.context);
#endif
#ifdef SOFTGPU_ADDRESS
    __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

void arrived_on_stack() {
#ifdef SOFTGPU_ADDRESS
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

}  // namespace softgpu
