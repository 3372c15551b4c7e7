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
        // Perhaps a stream has something to free.
        if (const CUresult error = finish_thread()) return error;
        memory = allocate(bytes);
    }
    if (memory == nullptr) {
        return refuse(CUDA_ERROR_OUT_OF_MEMORY, "out of memory: " + std::to_string(bytes) + " bytes wanted, " +
                                                    std::to_string(memory_info().free) + " free");
    }
    *pointer = reinterpret_cast<Pointer>(memory);
    return CUDA_SUCCESS;
}

// Memory that the device reads and writes by itself; what is copied from elsewhere is copied twice.
class Pinned {
  public:
    void add(const void* pointer, size_t bytes) {
        const std::lock_guard<std::mutex> lock(mutex_);
        ranges_[reinterpret_cast<uintptr_t>(pointer)] = bytes;
    }
    bool remove(const void* pointer) {
        const std::lock_guard<std::mutex> lock(mutex_);
        return ranges_.erase(reinterpret_cast<uintptr_t>(pointer)) == 1;
    }
    bool holds(const void* pointer) {
        const std::lock_guard<std::mutex> lock(mutex_);
        const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
        auto above = ranges_.upper_bound(address);
        return above != ranges_.begin() && address - std::prev(above)->first < std::prev(above)->second;
    }

  private:
    std::mutex mutex_;
    std::map<uintptr_t, size_t> ranges_;
};

Pinned& pinned() {
    static Pinned* pinned = new Pinned;
    return *pinned;
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
std::function<CUresult()> copy(const char* call, void* to, const void* from, size_t bytes, bool to_device,
                               bool from_device) {
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

// Calls without a stream come after all work of the thread.
CUresult before_blocking_call(const char* call) {
    if (const CUresult error = forbid_in_capture(call)) return error;
    return finish_thread();
}

template <class Word> std::function<CUresult()> fill(const char* call, Pointer pointer, Word value, size_t count) {
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
    if (const CUresult error = forbid_in_capture("cuMemGetInfo")) return error;
    if (const CUresult error = finish_thread()) return error;
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
    if (const CUresult error = finish_thread()) return error;
    return free_at(pointer);
}
// Memory nodes of graphs are not offered: all memory is allocated before a capture.
SOFTGPU_API CUresult cuMemAllocAsync(Pointer* pointer, size_t bytes, void* stream) {
    if (const CUresult error = forbid_on(stream_of(stream), "cuMemAllocAsync")) return error;
    return allocate_for(pointer, bytes);
}
SOFTGPU_API CUresult cuMemFreeAsync(Pointer pointer, void* stream) {
    if (const CUresult error = forbid_on(stream_of(stream), "cuMemFreeAsync")) return error;
    return submit(stream, {[=] { return free_at(pointer); }});
}

SOFTGPU_API CUresult cuMemHostAlloc(void** pointer, size_t bytes, unsigned) {
    *pointer = nullptr;
    if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    if (posix_memalign(pointer, 4096, bytes) != 0) return CUDA_ERROR_OUT_OF_MEMORY;
    std::memset(*pointer, 0xff, bytes);
    pinned().add(*pointer, bytes);
    return CUDA_SUCCESS;
}
SOFTGPU_API CUresult cuMemFreeHost(void* pointer) {
    if (const CUresult error = finish_thread()) return error;
    if (!pinned().remove(pointer)) return refuse(CUDA_ERROR_INVALID_VALUE, "cuMemFreeHost: not from cuMemHostAlloc");
    std::free(pointer);
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuMemcpyHtoD_v2(Pointer to, const void* from, size_t bytes) {
    if (const CUresult error = before_blocking_call("cuMemcpyHtoD")) return error;
    return copy("cuMemcpyHtoD", host(to), from, bytes, true, false)();
}
SOFTGPU_API CUresult cuMemcpyDtoH_v2(void* to, Pointer from, size_t bytes) {
    if (const CUresult error = before_blocking_call("cuMemcpyDtoH")) return error;
    return copy("cuMemcpyDtoH", to, host(from), bytes, false, true)();
}
SOFTGPU_API CUresult cuMemcpyDtoD_v2(Pointer to, Pointer from, size_t bytes) {
    if (const CUresult error = before_blocking_call("cuMemcpyDtoD")) return error;
    return copy("cuMemcpyDtoD", host(to), host(from), bytes, true, true)();
}
// From memory that is not pinned: taken at the call, so the caller may reuse it. (A graph takes it at each launch.)
SOFTGPU_API CUresult cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t bytes, void* stream) {
    if (pinned().holds(from) || stream_of(stream).capture != nullptr) {
        return submit(stream, {copy("cuMemcpyHtoDAsync", host(to), from, bytes, true, false)});
    }
    const auto* first = static_cast<const unsigned char*>(from);
    auto staged = std::make_shared<std::vector<unsigned char>>(first, first + bytes);
    return submit(stream, {[=] { return copy("cuMemcpyHtoDAsync", host(to), staged->data(), bytes, true, false)(); }});
}
// To memory that is not pinned: the call returns when the copy is done.
SOFTGPU_API CUresult cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t bytes, void* handle) {
    const CUresult error = submit(handle, {copy("cuMemcpyDtoHAsync", to, host(from), bytes, false, true)});
    Stream& stream = stream_of(handle);
    return error != CUDA_SUCCESS || pinned().holds(to) || stream.capture != nullptr ? error : finish(stream);
}
SOFTGPU_API CUresult cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, void* stream) {
    return submit(stream, {copy("cuMemcpyDtoDAsync", host(to), host(from), bytes, true, true)});
}

SOFTGPU_API CUresult cuMemsetD8_v2(Pointer pointer, unsigned char value, size_t count) {
    if (const CUresult error = before_blocking_call("cuMemsetD8")) return error;
    return fill("cuMemsetD8", pointer, value, count)();
}
SOFTGPU_API CUresult cuMemsetD32_v2(Pointer pointer, unsigned value, size_t count) {
    if (const CUresult error = before_blocking_call("cuMemsetD32")) return error;
    return fill("cuMemsetD32", pointer, value, count)();
}
SOFTGPU_API CUresult cuMemsetD8Async(Pointer pointer, unsigned char value, size_t count, void* stream) {
    return submit(stream, {fill("cuMemsetD8Async", pointer, value, count)});
}
SOFTGPU_API CUresult cuMemsetD32Async(Pointer pointer, unsigned value, size_t count, void* stream) {
    return submit(stream, {fill("cuMemsetD32Async", pointer, value, count)});
}

// At most this much more for the calling thread; SIZE_MAX: no limit.
SOFTGPU_API void softgpu_limit_memory(size_t bytes) { limit_memory(bytes); }
