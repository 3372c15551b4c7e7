// What the driver's entry points share.
#pragma once
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "launch.h"
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

// Of the launches of the calling thread: SOFTGPU_SEED, what softgpu_set_seed said, or a random number.
uint64_t seed_of_thread();

// Remembers the sentence for the calling thread (cuGetErrorString and softgpu_last_fault give it), says it on
// stderr and returns the number.
CUresult refuse(CUresult code, const std::string& sentence);

struct Stream;

// Something the device does when its turn comes, once or at each launch of a graph.
struct Operation {
    std::function<CUresult()> run;
    const char* kernel = nullptr;  // its name, if it is a launch
    // What has to be done before: the first `ticket` operations of another stream.
    std::shared_ptr<Stream> waits_for = nullptr;
    uint64_t ticket = 0;
    unsigned shared = 0;  // bytes of dynamic shared memory of a launch
};

struct Graph {
    std::vector<Operation> operations;
};

// A capture under way; `streams` take part in it, the first began it.
struct Capture {
    Graph graph;
    bool invalid = false;
    std::vector<Stream*> streams;
};

// The streams that one thread of the host made. Nothing in them is done before somebody waits for it; then the
// operations that may be next are done in random order.
struct Group {
    std::recursive_mutex mutex;
    std::vector<std::shared_ptr<Stream>> streams;
    Random random{0};
    CUresult error = CUDA_SUCCESS;  // of an operation, until a call returns it
};

struct Stream : std::enable_shared_from_this<Stream> {
    std::shared_ptr<Group> group;
    std::deque<Operation> pending;
    uint64_t submitted = 0, done = 0;  // numbers of operations
    std::shared_ptr<Capture> capture;
    bool unjoined = false;  // captured work that the first stream does not wait for
};

// Null is the stream that every context has: what it is told, it does at once, after all other work of the thread.
Stream& stream_of(void* handle);
// Adds the operation to the stream, or to its capture.
CUresult submit(void* stream, Operation operation);
// Does what is pending: the first `ticket` operations of a stream, all of a stream, all of this thread's streams.
CUresult reach(Stream& stream, uint64_t ticket);
CUresult finish(Stream& stream);
CUresult finish_thread();
// All of every thread's streams.
CUresult finish_all();
// Decides the order between this thread's streams from now on.
void seed_streams(uint64_t seed);
// For calls that a capture forbids, on this thread or on a stream: the error, and the capture is lost.
CUresult forbid_in_capture(const char* call);
CUresult forbid_on(Stream& stream, const char* call);
// A capture under way gets an operation.
CUresult record(Capture& capture, Operation operation);
// A stream waits for what another has captured, and takes part in that capture from now on.
CUresult join_capture(Stream& stream, const std::shared_ptr<Capture>& capture, Stream& recorder);
// Ends the capture that the stream takes part in, if any.
void leave_capture(Stream& stream);

// What the calling thread launched of a kernel; launches of graphs count at each launch of the graph.
struct Launched {
    uint64_t count = 0;
    unsigned shared = 0;  // most bytes of dynamic shared memory
};
std::map<std::string, Launched>& launched();

}  // namespace softgpu
