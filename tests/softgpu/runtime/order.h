// What orders memory accesses, told to ThreadSanitizer. Elsewhere nothing has to be told: fibers of a block run
// on one thread.
#pragma once

#ifdef SOFTGPU_THREAD
#include <sanitizer/tsan_interface.h>
#endif

namespace softgpu {

inline void order_release(void* token) {
#ifdef SOFTGPU_THREAD
    __tsan_release(token);
#else
    (void)token;
#endif
}

inline void order_acquire(void* token) {
#ifdef SOFTGPU_THREAD
    __tsan_acquire(token);
#else
    (void)token;
#endif
}

}  // namespace softgpu
