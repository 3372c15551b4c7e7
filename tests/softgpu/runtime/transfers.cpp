// Memory of the device and of the host, copies and fills.
#include <cstdlib>
#include <cstring>

#include "driver.h"
#include "memory.h"

namespace softgpu {
namespace {

using Pointer = uint64_t;  // CUdeviceptr

void* host(Pointer pointer) { return reinterpret_cast<void*>(pointer); }

CUresult allocate_for(Pointer* pointer, size_t bytes) {
    *pointer = 0;
    if (bytes == 0) return refuse(CUDA_ERROR_INVALID_VALUE, "an allocation of 0 bytes");
    void* memory = allocate(bytes);
    if (memory == nullptr) {
        return refuse(CUDA_ERROR_OUT_OF_MEMORY, "out of memory: " + std::to_string(bytes) + " bytes wanted, " +
                                                    std::to_string(memory_info().free) + " free");
    }
    *pointer = reinterpret_cast<Pointer>(memory);
    return CUDA_SUCCESS;
}

CUresult free_at(Pointer pointer) {
    if (pointer == 0 || release(host(pointer))) return CUDA_SUCCESS;
    return refuse(CUDA_ERROR_INVALID_VALUE, "freed what is not allocated: " + describe_address(host(pointer)));
}

CUresult check(const char* call, const void* pointer, size_t bytes) {
    const std::string wrong = check_range(pointer, bytes);
    return wrong.empty() ? CUDA_SUCCESS : refuse(CUDA_ERROR_INVALID_VALUE, std::string(call) + ": " + wrong);
}

// A copy whose device side is checked when it is done.
Operation copy(const char* call, void* to, const void* from, size_t bytes, bool to_device, bool from_device) {
    return [=] {
        if (to_device) {
            if (const CUresult error = check(call, to, bytes)) return error;
        }
        if (from_device) {
            if (const CUresult error = check(call, from, bytes)) return error;
        }
        std::memmove(to, from, bytes);
        return CUDA_SUCCESS;
    };
}

template <class Word> Operation fill(const char* call, Pointer pointer, Word value, size_t count) {
    return [=] {
        if (const CUresult error = check(call, host(pointer), count * sizeof(Word))) return error;
        Word* words = static_cast<Word*>(host(pointer));
        for (size_t i = 0; i < count; ++i) words[i] = value;
        return CUDA_SUCCESS;
    };
}

}  // namespace
}  // namespace softgpu

using namespace softgpu;

SOFTGPU_API CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
    const MemoryInfo info = memory_info();
    *free = info.free;
    *total = info.total;
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuMemAlloc_v2(Pointer* pointer, size_t bytes) {
    if (const CUresult error = forbid_in_capture("cuMemAlloc")) return error;
    return allocate_for(pointer, bytes);
}
SOFTGPU_API CUresult cuMemFree_v2(Pointer pointer) {
    if (const CUresult error = forbid_in_capture("cuMemFree")) return error;
    return free_at(pointer);
}
// Memory nodes of graphs are not offered: all memory is allocated before a capture.
SOFTGPU_API CUresult cuMemAllocAsync(Pointer* pointer, size_t bytes, void* stream) {
    if (const CUresult error = forbid_on(stream_of(stream), "cuMemAllocAsync")) return error;
    return allocate_for(pointer, bytes);
}
SOFTGPU_API CUresult cuMemFreeAsync(Pointer pointer, void* stream) {
    if (const CUresult error = forbid_on(stream_of(stream), "cuMemFreeAsync")) return error;
    return free_at(pointer);
}

SOFTGPU_API CUresult cuMemHostAlloc(void** pointer, size_t bytes, unsigned) {
    *pointer = nullptr;
    if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    if (posix_memalign(pointer, 4096, bytes) != 0) return CUDA_ERROR_OUT_OF_MEMORY;
    std::memset(*pointer, 0xff, bytes);
    return CUDA_SUCCESS;
}
SOFTGPU_API CUresult cuMemFreeHost(void* pointer) {
    std::free(pointer);
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuMemcpyHtoD_v2(Pointer to, const void* from, size_t bytes) {
    if (const CUresult error = forbid_in_capture("cuMemcpyHtoD")) return error;
    return copy("cuMemcpyHtoD", host(to), from, bytes, true, false)();
}
SOFTGPU_API CUresult cuMemcpyDtoH_v2(void* to, Pointer from, size_t bytes) {
    if (const CUresult error = forbid_in_capture("cuMemcpyDtoH")) return error;
    return copy("cuMemcpyDtoH", to, host(from), bytes, false, true)();
}
SOFTGPU_API CUresult cuMemcpyDtoD_v2(Pointer to, Pointer from, size_t bytes) {
    if (const CUresult error = forbid_in_capture("cuMemcpyDtoD")) return error;
    return copy("cuMemcpyDtoD", host(to), host(from), bytes, true, true)();
}
SOFTGPU_API CUresult cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t bytes, void* stream) {
    return submit(stream, copy("cuMemcpyHtoDAsync", host(to), from, bytes, true, false));
}
SOFTGPU_API CUresult cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t bytes, void* stream) {
    return submit(stream, copy("cuMemcpyDtoHAsync", to, host(from), bytes, false, true));
}
SOFTGPU_API CUresult cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, void* stream) {
    return submit(stream, copy("cuMemcpyDtoDAsync", host(to), host(from), bytes, true, true));
}

SOFTGPU_API CUresult cuMemsetD8_v2(Pointer pointer, unsigned char value, size_t count) {
    if (const CUresult error = forbid_in_capture("cuMemsetD8")) return error;
    return fill("cuMemsetD8", pointer, value, count)();
}
SOFTGPU_API CUresult cuMemsetD32_v2(Pointer pointer, unsigned value, size_t count) {
    if (const CUresult error = forbid_in_capture("cuMemsetD32")) return error;
    return fill("cuMemsetD32", pointer, value, count)();
}
SOFTGPU_API CUresult cuMemsetD8Async(Pointer pointer, unsigned char value, size_t count, void* stream) {
    return submit(stream, fill("cuMemsetD8Async", pointer, value, count));
}
SOFTGPU_API CUresult cuMemsetD32Async(Pointer pointer, unsigned value, size_t count, void* stream) {
    return submit(stream, fill("cuMemsetD32Async", pointer, value, count));
}

// At most this much more for the calling thread; SIZE_MAX: no limit.
SOFTGPU_API void softgpu_limit_memory(size_t bytes) { limit_memory(bytes); }
