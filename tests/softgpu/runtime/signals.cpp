#include "signals.h"

#include <dlfcn.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstdio>
#include <mutex>
#include <string>

#include "block.h"
#include "memory.h"

namespace softgpu {

#if defined(SOFTGPU_SANITIZED) || !defined(__x86_64__)

// The sanitizers have handlers of their own.
SignalStack::SignalStack() {}
SignalStack::~SignalStack() {}

#else

namespace {

constexpr size_t SIZE = 64 * 1024;
struct sigaction before_segv, before_bus, before_fpe;

__thread int fault_signal;
__thread const void* fault_address;
__thread const void* fault_instruction;

// "; addr2line -ie libcuda.so 0x1234 tells the line"
std::string where() {
    Dl_info info;
    if (dladdr(fault_instruction, &info) == 0 || info.dli_fname == nullptr) return {};
    char text[32];
    std::snprintf(text, sizeof text, " 0x%zx", static_cast<size_t>(static_cast<const char*>(fault_instruction) -
                                                                    static_cast<const char*>(info.dli_fbase)));
    return std::string("; addr2line -ie ") + info.dli_fname + text + " tells the line";
}

// Where the fiber continues: at the top of its own stack, on which nothing is needed any more.
[[noreturn]] void land() {
    const int signal = fault_signal;
    const unsigned char* address = static_cast<const unsigned char*>(fault_address);
    const Stack& stack = running_block->running().stack;
    if (signal == SIGFPE) running_block->fail(LAUNCH_FAILED, "integer division by zero" + where());
    if (address < stack.bottom && address + PAGE >= stack.bottom) {
        running_block->fail(LAUNCH_FAILED, "more than " + std::to_string(STACK) + " bytes of stack" + where());
    }
    running_block->fail(ILLEGAL_ADDRESS, "illegal address " + describe_address(address) + where());
}

void handle(int signal, siginfo_t* info, void* raw) {
    if (running_block == nullptr) {
        // Not ours: whoever was there before sees it when the instruction is tried again.
        sigaction(signal, signal == SIGSEGV ? &before_segv : signal == SIGBUS ? &before_bus : &before_fpe, nullptr);
        return;
    }
    fault_signal = signal;
    fault_address = info->si_addr;
    ucontext_t* context = static_cast<ucontext_t*>(raw);
    fault_instruction = reinterpret_cast<const void*>(context->uc_mcontext.gregs[REG_RIP]);
    const Stack& stack = running_block->running().stack;
    const auto top = reinterpret_cast<uintptr_t>(stack.bottom + stack.size);
    context->uc_mcontext.gregs[REG_RSP] = static_cast<greg_t>(top - 24);
    context->uc_mcontext.gregs[REG_RIP] = reinterpret_cast<greg_t>(land);
}

void install() {
    struct sigaction action = {};
    action.sa_sigaction = handle;
    // The handler is left by jumping, in effect, so the signal must not stay blocked.
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, &before_segv);
    sigaction(SIGBUS, &action, &before_bus);
    sigaction(SIGFPE, &action, &before_fpe);
}

}  // namespace

SignalStack::SignalStack() {
    static std::once_flag once;
    std::call_once(once, install);
    stack_t present;
    if (sigaltstack(nullptr, &present) != 0 || (present.ss_flags & SS_DISABLE) == 0) return;
    void* memory = mmap(nullptr, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return;
    const stack_t stack = {memory, 0, SIZE};
    sigaltstack(&stack, nullptr);
    memory_ = memory;
}

SignalStack::~SignalStack() {
    if (memory_ == nullptr) return;
    const stack_t none = {nullptr, SS_DISABLE, 0};
    sigaltstack(&none, nullptr);
    munmap(memory_, SIZE);
}

#endif

}  // namespace softgpu
