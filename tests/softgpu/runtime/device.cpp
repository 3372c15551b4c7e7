// The device, its context and their limits.
#include <algorithm>
#include <cstring>

#include "arena.h"
#include "driver.h"
#include "memory.h"

namespace softgpu {
namespace {

int context_handle;  // its address is the handle of the only context
thread_local void* current_context = nullptr;

constexpr int MULTIPROCESSORS = 4;
constexpr int THREADS_PER_MULTIPROCESSOR = 1536;
constexpr int BLOCKS_PER_MULTIPROCESSOR = 16;
constexpr int SHARED_PER_MULTIPROCESSOR = 100 * 1024;
constexpr int SHARED_RESERVED_PER_BLOCK = 1024;

// Attributes by the numbers of CUdevice_attribute.
int attribute_value(int attribute, bool& known) {
    known = true;
    switch (attribute) {
        case 1: return 1024;                             // threads of a block
        case 2: case 3: return 1024;                     // block x, y
        case 4: return 64;                               // block z
        case 5: return 2147483647;                       // grid x
        case 6: case 7: return 65535;                    // grid y, z
        case 8: return STATIC_LIMIT;                     // shared memory of a block
        case 9: return 65536;                            // constant memory
        case 10: return 32;                              // lanes of a warp
        case 12: return 65536;                           // registers of a block
        case 13: return 1000000;                         // clock, kHz
        case 16: return MULTIPROCESSORS;
        case 36: return 1000000;                         // memory clock, kHz
        case 37: return 64;                              // memory bus, bits
        case 38: return 1 << 20;                         // level 2 cache
        case 39: return THREADS_PER_MULTIPROCESSOR;
        case 40: return 1;                               // copy engines
        case 41: return 1;                               // unified addressing
        case 75: return 8;                               // compute capability
        case 76: return 0;
        case 81: return SHARED_PER_MULTIPROCESSOR;
        case 82: return 65536;                           // registers of a multiprocessor
        case 97: return DYNAMIC_LIMIT;                   // shared memory of a block, when asked for
        case 106: return BLOCKS_PER_MULTIPROCESSOR;
        case 111: return SHARED_RESERVED_PER_BLOCK;
        case 115: return 1;                              // memory pools: cuMemAllocAsync
        // What it does not have: mapped host memory, managed memory, cooperative launches, clusters, ...
        case 17: case 18: case 19: case 20: case 31: case 32: case 33: case 34: case 35: case 50: case 78: case 79:
        case 80: case 83: case 84: case 88: case 89: case 90: case 95: case 96: case 100: case 101: case 120: return 0;
        default: known = false; return 0;
    }
}

}  // namespace

int blocks_per_multiprocessor(int threads, size_t shared) {
    const size_t bytes = shared + SHARED_RESERVED_PER_BLOCK;
    const int by_shared = static_cast<int>(SHARED_PER_MULTIPROCESSOR / bytes);
    const int by_threads = THREADS_PER_MULTIPROCESSOR / ((threads + 31) / 32 * 32);
    return std::min({by_shared, by_threads, BLOCKS_PER_MULTIPROCESSOR});
}

}  // namespace softgpu

using namespace softgpu;

SOFTGPU_API CUresult cuInit(unsigned flags) { return flags == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE; }

SOFTGPU_API CUresult cuDriverGetVersion(int* version) {
    *version = 13000;
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuDeviceGetCount(int* count) {
    *count = 1;
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuDeviceGet(int* device, int ordinal) {
    if (ordinal != 0) return CUDA_ERROR_INVALID_DEVICE;
    *device = 0;
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuDeviceGetName(char* name, int room, int device) {
    if (device != 0 || room < 1) return CUDA_ERROR_INVALID_VALUE;
    std::strncpy(name, "b4r software GPU", static_cast<size_t>(room));
    name[room - 1] = 0;
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuDeviceGetUuid_v2(char* uuid, int device) {
    if (device != 0) return CUDA_ERROR_INVALID_DEVICE;
    std::memcpy(uuid, "b4r software GPU", 16);
    return CUDA_SUCCESS;
}
SOFTGPU_API CUresult cuDeviceGetUuid(char* uuid, int device) { return cuDeviceGetUuid_v2(uuid, device); }

SOFTGPU_API CUresult cuDeviceTotalMem_v2(size_t* bytes, int device) {
    if (device != 0) return CUDA_ERROR_INVALID_DEVICE;
    *bytes = memory_info().total;
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuDeviceGetAttribute(int* value, int attribute, int device) {
    if (device != 0) return CUDA_ERROR_INVALID_DEVICE;
    bool known = false;
    *value = attribute_value(attribute, known);
    if (known) return CUDA_SUCCESS;
    return refuse(CUDA_ERROR_INVALID_VALUE, "no device attribute " + std::to_string(attribute) + " (see device.cpp)");
}

SOFTGPU_API CUresult cuDevicePrimaryCtxRetain(void** context, int device) {
    if (device != 0) return CUDA_ERROR_INVALID_DEVICE;
    *context = &context_handle;
    return CUDA_SUCCESS;
}
SOFTGPU_API CUresult cuDevicePrimaryCtxRelease_v2(int device) {
    return device == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

SOFTGPU_API CUresult cuCtxGetCurrent(void** context) {
    *context = current_context;
    return CUDA_SUCCESS;
}
SOFTGPU_API CUresult cuCtxSetCurrent(void* context) {
    if (context != nullptr && context != &context_handle) return CUDA_ERROR_INVALID_CONTEXT;
    current_context = context;
    return CUDA_SUCCESS;
}
SOFTGPU_API CUresult cuCtxGetDevice(int* device) {
    if (current_context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    *device = 0;
    return CUDA_SUCCESS;
}
SOFTGPU_API CUresult cuCtxSetFlags(unsigned) { return CUDA_SUCCESS; }
SOFTGPU_API CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    *least = *greatest = 0;
    return CUDA_SUCCESS;
}
SOFTGPU_API CUresult cuProfilerStart() { return CUDA_SUCCESS; }
SOFTGPU_API CUresult cuProfilerStop() { return CUDA_SUCCESS; }
