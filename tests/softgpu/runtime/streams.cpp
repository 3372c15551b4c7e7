// Streams, events, captures and graphs. A stream does at once what it is told.
#include <algorithm>
#include <chrono>

#include "driver.h"

namespace softgpu {
namespace {

// Captures that this thread began and did not end, relaxed ones apart: they forbid calls that would wait.
thread_local std::vector<std::shared_ptr<Capture>> strict_captures;

Event& event_of(void* handle) { return *static_cast<Event*>(handle); }

double now() {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void leave(const std::shared_ptr<Capture>& capture) {
    for (Stream* stream : capture->streams) {
        stream->capture = nullptr;
        stream->unjoined = false;
    }
    strict_captures.erase(std::remove(strict_captures.begin(), strict_captures.end(), capture), strict_captures.end());
}

}  // namespace

Stream& stream_of(void* handle) {
    static Stream* legacy = new Stream;
    // 0, 1 and 2 are the default streams.
    return reinterpret_cast<uintptr_t>(handle) <= 2 ? *legacy : *static_cast<Stream*>(handle);
}

CUresult submit(void* handle, Operation operation) {
    Stream& stream = stream_of(handle);
    const std::lock_guard<std::mutex> lock(stream.mutex);
    if (stream.capture == nullptr) return operation();
    if (stream.capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    stream.capture->graph.operations.push_back(std::move(operation));
    stream.unjoined = true;
    return CUDA_SUCCESS;
}

CUresult forbid_in_capture(const char* call) {
    if (strict_captures.empty()) return CUDA_SUCCESS;
    for (const std::shared_ptr<Capture>& capture : strict_captures) capture->invalid = true;
    return refuse(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, std::string(call) + " while this thread captures");
}

CUresult forbid_on(Stream& stream, const char* call) {
    if (stream.capture == nullptr) return CUDA_SUCCESS;
    stream.capture->invalid = true;
    return refuse(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, std::string(call) + " on a stream that captures");
}

}  // namespace softgpu

using namespace softgpu;

SOFTGPU_API CUresult cuStreamCreate(void** stream, unsigned) {
    *stream = new Stream;
    return CUDA_SUCCESS;
}
SOFTGPU_API CUresult cuStreamCreateWithPriority(void** stream, unsigned flags, int) {
    return cuStreamCreate(stream, flags);
}
SOFTGPU_API CUresult cuStreamDestroy_v2(void* stream) {
    if (reinterpret_cast<uintptr_t>(stream) <= 2) return CUDA_ERROR_INVALID_HANDLE;
    Stream& own = stream_of(stream);
    if (own.capture != nullptr) leave(std::shared_ptr<Capture>(own.capture));
    delete &own;
    return CUDA_SUCCESS;
}
SOFTGPU_API CUresult cuStreamSynchronize(void* stream) { return forbid_on(stream_of(stream), "cuStreamSynchronize"); }
SOFTGPU_API CUresult cuStreamQuery(void* stream) { return forbid_on(stream_of(stream), "cuStreamQuery"); }

SOFTGPU_API CUresult cuStreamWaitEvent(void* handle, void* event_handle, unsigned) {
    Stream& stream = stream_of(handle);
    const Event& event = event_of(event_handle);
    if (event.capture == nullptr) {
        if (stream.capture == nullptr || !event.recorded) return CUDA_SUCCESS;
        stream.capture->invalid = true;
        return refuse(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "a stream that captures waits for an event outside its capture");
    }
    if (stream.capture == nullptr) {
        stream.capture = event.capture;
        stream.capture->streams.push_back(&stream);
    } else if (stream.capture != event.capture) {
        stream.capture->invalid = true;
        return refuse(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "two captures wait for one another");
    }
    if (event.stream != &stream) event.stream->unjoined = false;
    stream.unjoined = true;
    return CUDA_SUCCESS;
}

// The callback runs when its turn comes: at once, or at each launch of the graph.
SOFTGPU_API CUresult cuLaunchHostFunc(void* stream, void (*function)(void*), void* data) {
    return submit(stream, [=] {
        function(data);
        return CUDA_SUCCESS;
    });
}

SOFTGPU_API CUresult cuStreamBeginCapture_v2(void* handle, int mode) {
    Stream& stream = stream_of(handle);
    if (reinterpret_cast<uintptr_t>(handle) <= 1) {
        return refuse(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "the default stream cannot capture");
    }
    if (stream.capture != nullptr) return refuse(CUDA_ERROR_INVALID_VALUE, "the stream captures already");
    stream.capture = std::make_shared<Capture>();
    stream.capture->streams.push_back(&stream);
    constexpr int RELAXED = 2;
    if (mode != RELAXED) strict_captures.push_back(stream.capture);
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuStreamEndCapture(void* handle, void** graph) {
    Stream& stream = stream_of(handle);
    *graph = nullptr;
    const std::shared_ptr<Capture> capture = stream.capture;
    if (capture == nullptr) return refuse(CUDA_ERROR_INVALID_VALUE, "the stream does not capture");
    if (capture->streams.front() != &stream) return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
    const bool unjoined = std::any_of(capture->streams.begin() + 1, capture->streams.end(),
                                      [](const Stream* other) { return other->unjoined; });
    leave(capture);
    if (capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (unjoined) {
        return refuse(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "a stream that joined the capture is not waited for at its end");
    }
    *graph = new Graph(std::move(capture->graph));
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuStreamIsCapturing(void* handle, int* status) {
    const Stream& stream = stream_of(handle);
    *status = stream.capture == nullptr ? 0 : stream.capture->invalid ? 2 : 1;
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
    *executable = new Graph(*static_cast<Graph*>(graph));
    return CUDA_SUCCESS;
}
SOFTGPU_API CUresult cuGraphUpload(void*, void*) { return CUDA_SUCCESS; }
SOFTGPU_API CUresult cuGraphLaunch(void* executable, void* stream) {
    Graph* graph = static_cast<Graph*>(executable);
    return submit(stream, [graph] {
        for (const Operation& operation : graph->operations) {
            if (const CUresult error = operation()) return error;
        }
        return CUDA_SUCCESS;
    });
}
SOFTGPU_API CUresult cuGraphExecDestroy(void* executable) {
    delete static_cast<Graph*>(executable);
    return CUDA_SUCCESS;
}
SOFTGPU_API CUresult cuGraphDestroy(void* graph) {
    delete static_cast<Graph*>(graph);
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuEventCreate(void** event, unsigned) {
    *event = new Event;
    return CUDA_SUCCESS;
}
SOFTGPU_API CUresult cuEventDestroy_v2(void* event) {
    delete static_cast<Event*>(event);
    return CUDA_SUCCESS;
}
SOFTGPU_API CUresult cuEventRecord(void* handle, void* stream_handle) {
    Event& event = event_of(handle);
    Stream& stream = stream_of(stream_handle);
    event.stream = &stream;
    event.capture = stream.capture;
    event.recorded = event.capture == nullptr;
    if (event.recorded) event.milliseconds = now();
    return CUDA_SUCCESS;
}
SOFTGPU_API CUresult cuEventQuery(void*) { return CUDA_SUCCESS; }
SOFTGPU_API CUresult cuEventSynchronize(void* handle) {
    if (event_of(handle).capture == nullptr) return CUDA_SUCCESS;
    return refuse(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "cuEventSynchronize on an event of a capture");
}
SOFTGPU_API CUresult cuEventElapsedTime_v2(float* milliseconds, void* from, void* to) {
    if (!event_of(from).recorded || !event_of(to).recorded) return CUDA_ERROR_INVALID_HANDLE;
    *milliseconds = static_cast<float>(event_of(to).milliseconds - event_of(from).milliseconds);
    return CUDA_SUCCESS;
}
SOFTGPU_API CUresult cuEventElapsedTime(float* milliseconds, void* from, void* to) {
    return cuEventElapsedTime_v2(milliseconds, from, to);
}
