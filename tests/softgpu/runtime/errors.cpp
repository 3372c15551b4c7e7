#include <cstdio>
#include <cstring>

#include "driver.h"

namespace softgpu {
namespace {

struct LastFault {
    int code = 0;
    std::string sentence;
};
LastFault& last_fault() {
    static thread_local LastFault fault;
    return fault;
}

struct Name {
    int code;
    const char* name;
    const char* sentence;
};
const Name NAMES[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {600, "CUDA_ERROR_NOT_READY", "device not ready"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {710, "CUDA_ERROR_ASSERT", "device-side assert triggered"},
    {716, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
    {903, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "the stream did not begin the capture"},
    {904, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"},
};

const Name* find(int code) {
    for (const Name& name : NAMES) {
        if (name.code == code) return &name;
    }
    return nullptr;
}

}  // namespace

CUresult refuse(CUresult code, const std::string& sentence) {
    std::fprintf(stderr, "softgpu: %s\n", sentence.c_str());
    last_fault() = {code, sentence};
    return code;
}

}  // namespace softgpu

SOFTGPU_API CUresult cuGetErrorName(int code, const char** name) {
    const softgpu::Name* found = softgpu::find(code);
    *name = found == nullptr ? nullptr : found->name;
    return found == nullptr ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

// The sentence of the calling thread's last error where it is of that kind: it says more than the number.
SOFTGPU_API CUresult cuGetErrorString(int code, const char** sentence) {
    const softgpu::LastFault& last = softgpu::last_fault();
    const softgpu::Name* found = softgpu::find(code);
    *sentence = code != 0 && last.code == code ? last.sentence.c_str() : found == nullptr ? nullptr : found->sentence;
    return *sentence == nullptr ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

// The calling thread's last error; empty if there was none.
SOFTGPU_API const char* softgpu_last_fault() { return softgpu::last_fault().sentence.c_str(); }
