// What the driver's entry points share.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "softgpu/runtime.h"

// The numbers of cuda.h.
enum CUresult {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NOT_INITIALIZED = 3,
    CUDA_ERROR_INVALID_DEVICE = 101,
    CUDA_ERROR_INVALID_IMAGE = 200,
    CUDA_ERROR_INVALID_CONTEXT = 201,
    CUDA_ERROR_INVALID_HANDLE = 400,
    CUDA_ERROR_NOT_FOUND = 500,
    CUDA_ERROR_NOT_READY = 600,
    CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES = 701,
    CUDA_ERROR_NOT_SUPPORTED = 801,
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900,
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901,
    CUDA_ERROR_STREAM_CAPTURE_UNMATCHED = 903,
    CUDA_ERROR_STREAM_CAPTURE_UNJOINED = 904,
};

#define SOFTGPU_API extern "C" __attribute__((visibility("default")))

namespace softgpu {

// Remembers the sentence for the calling thread (cuGetErrorString and softgpu_last_fault give it), says it on
// stderr and returns the number.
CUresult refuse(CUresult code, const std::string& sentence);

// Something the device does: now, or when a graph is launched.
using Operation = std::function<CUresult()>;

struct Graph {
    std::vector<Operation> operations;
};

// A capture under way; `streams` take part in it, the first began it.
struct Capture {
    Graph graph;
    bool invalid = false;
    std::vector<struct Stream*> streams;
};

struct Stream {
    std::mutex mutex;
    std::shared_ptr<Capture> capture;
    bool unjoined = false;  // captured work that the first stream does not wait for
};

struct Event {
    double milliseconds = 0;
    bool recorded = false;
    std::shared_ptr<Capture> capture;  // where it was recorded, if in a capture
    Stream* stream = nullptr;
};

// Null is the stream that every context has.
Stream& stream_of(void* handle);
// Does the operation, or adds it to the stream's capture.
CUresult submit(void* stream, Operation operation);
// For calls that a capture forbids, on this thread or on a stream: the error, and the capture is lost.
CUresult forbid_in_capture(const char* call);
CUresult forbid_on(Stream& stream, const char* call);

// Launches executed by the calling thread, by name.
std::map<std::string, uint64_t>& launch_counts();

}  // namespace softgpu
