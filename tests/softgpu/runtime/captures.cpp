// Captures and graphs: a list of operations, done one after another at each launch.
#include <algorithm>

#include "driver.h"

namespace softgpu {
namespace {

// Captures that this thread began and did not end, relaxed ones apart: they forbid calls that would wait.
thread_local std::vector<std::shared_ptr<Capture>> strict_captures;

void leave(const std::shared_ptr<Capture>& capture) {
    for (Stream* stream : capture->streams) {
        stream->capture = nullptr;
        stream->unjoined = false;
    }
    strict_captures.erase(std::remove(strict_captures.begin(), strict_captures.end(), capture), strict_captures.end());
}

}  // namespace

CUresult record(Capture& capture, Operation operation) {
    if (capture.invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    capture.graph.operations.push_back(std::move(operation));
    return CUDA_SUCCESS;
}

CUresult join_capture(Stream& stream, const std::shared_ptr<Capture>& capture, Stream& recorder) {
    if (stream.capture == nullptr) {
        stream.capture = capture;
        capture->streams.push_back(&stream);
    } else if (stream.capture != capture) {
        stream.capture->invalid = true;
        return refuse(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "two captures wait for one another");
    }
    if (&recorder != &stream) recorder.unjoined = false;
    stream.unjoined = true;
    return CUDA_SUCCESS;
}

void leave_capture(Stream& stream) {
    const std::shared_ptr<Capture> capture = stream.capture;
    if (capture != nullptr) leave(capture);
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

SOFTGPU_API CUresult cuStreamBeginCapture_v2(void* handle, int mode) {
    Stream& stream = stream_of(handle);
    if (&stream == &stream_of(nullptr)) {
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
        return refuse(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "a stream that joined the capture is not waited for");
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
    for (const Operation& operation : static_cast<Graph*>(executable)->operations) {
        if (const CUresult error = submit(stream, operation)) return error;
    }
    return CUDA_SUCCESS;
}
SOFTGPU_API CUresult cuGraphExecDestroy(void* executable) {
    delete static_cast<Graph*>(executable);
    return CUDA_SUCCESS;
}
SOFTGPU_API CUresult cuGraphDestroy(void* graph) {
    delete static_cast<Graph*>(graph);
    return CUDA_SUCCESS;
}

// The callback runs when its turn comes.
SOFTGPU_API CUresult cuLaunchHostFunc(void* stream, void (*function)(void*), void* data) {
    return submit(stream, {[=] {
                      function(data);
                      return CUDA_SUCCESS;
                  }});
}
