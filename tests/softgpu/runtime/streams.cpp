// Streams and events.
//
// A stream only remembers what it is told; the work is done as late as the rules allow, when the host waits. So a
// host that does not wait reads what was there before, and one that reuses a pinned buffer too early sends the new
// content. Streams that do not wait for one another are served in random order.
#include <algorithm>
#include <chrono>
#include <utility>

#include "driver.h"

namespace softgpu {
namespace {

struct Groups {
    std::mutex mutex;
    std::vector<std::weak_ptr<Group>> all;
};
Groups& groups() {
    static Groups* groups = new Groups;
    return *groups;
}

std::shared_ptr<Group> make_group() {
    auto group = std::make_shared<Group>();
    group->random.state = seed_of_thread();
    const std::lock_guard<std::mutex> lock(groups().mutex);
    auto& all = groups().all;
    all.erase(std::remove_if(all.begin(), all.end(), [](const auto& one) { return one.expired(); }), all.end());
    all.push_back(group);
    return group;
}

const std::shared_ptr<Group>& group_of_thread() {
    static thread_local const std::shared_ptr<Group> group = make_group();
    return group;
}

bool is_default(void* handle) { return reinterpret_cast<uintptr_t>(handle) <= 2; }

bool may_run(const Stream& stream) {
    if (stream.pending.empty()) return false;
    const Operation& next = stream.pending.front();
    // Work of another thread's streams is done by the operation itself.
    return next.waits_for == nullptr || next.waits_for->group != stream.group || next.waits_for->done >= next.ticket;
}

void run_next(Stream& stream) {
    const Operation operation = std::move(stream.pending.front());
    stream.pending.pop_front();
    CUresult error = CUDA_SUCCESS;
    if (operation.waits_for != nullptr && operation.waits_for->done < operation.ticket) {
        error = reach(*operation.waits_for, operation.ticket);
    }
    if (error == CUDA_SUCCESS && operation.run) error = operation.run();
    stream.done += 1;
    if (error == CUDA_SUCCESS) return;
    // A GPU does nothing more after a fault.
    stream.group->error = error;
    for (const std::shared_ptr<Stream>& other : stream.group->streams) {
        other->pending.clear();
        other->done = other->submitted;
    }
}

// One operation of one of the group's streams; false when none can run.
bool run_any(Group& group) {
    std::vector<Stream*> ready;
    for (const std::shared_ptr<Stream>& stream : group.streams) {
        if (may_run(*stream)) ready.push_back(stream.get());
    }
    if (ready.empty()) return false;
    run_next(*ready[group.random.next() % ready.size()]);
    return true;
}

CUresult take_error(Group& group) { return std::exchange(group.error, CUDA_SUCCESS); }

CUresult finish_group(Group& group) {
    const std::lock_guard<std::recursive_mutex> lock(group.mutex);
    while (run_any(group)) {
    }
    return take_error(group);
}

void add(Stream& stream, Operation operation) {
    stream.pending.push_back(std::move(operation));
    stream.submitted += 1;
}

// A moment in a stream.
struct Event {
    std::shared_ptr<Stream> stream;
    uint64_t ticket = 0;
    std::shared_ptr<double> milliseconds;
    std::shared_ptr<Capture> capture;  // where it was recorded, if in a capture
};
Event& event_of(void* handle) { return *static_cast<Event*>(handle); }

double now() {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

void seed_streams(uint64_t seed) { group_of_thread()->random.state = seed; }

Stream& stream_of(void* handle) {
    static Stream* const standard = [] {
        auto* stream = new std::shared_ptr<Stream>(std::make_shared<Stream>());
        (*stream)->group = std::make_shared<Group>();
        (*stream)->group->streams.push_back(*stream);
        return stream->get();
    }();
    return is_default(handle) ? *standard : *static_cast<Stream*>(handle);
}

CUresult reach(Stream& stream, uint64_t ticket) {
    Group& group = *stream.group;
    const std::lock_guard<std::recursive_mutex> lock(group.mutex);
    while (stream.done < ticket && run_any(group)) {
    }
    return take_error(group);
}

CUresult finish(Stream& stream) { return reach(stream, stream.submitted); }
CUresult finish_thread() { return finish_group(*group_of_thread()); }

CUresult finish_all() {
    std::vector<std::shared_ptr<Group>> live;
    {
        const std::lock_guard<std::mutex> lock(groups().mutex);
        for (const std::weak_ptr<Group>& group : groups().all) {
            if (std::shared_ptr<Group> one = group.lock()) live.push_back(std::move(one));
        }
    }
    for (const std::shared_ptr<Group>& group : live) {
        if (group == group_of_thread()) continue;
        // Errors of other threads are theirs to see.
        const std::lock_guard<std::recursive_mutex> lock(group->mutex);
        while (run_any(*group)) {
        }
    }
    return finish_thread();
}

CUresult submit(void* handle, Operation operation) {
    Stream& stream = stream_of(handle);
    const std::lock_guard<std::recursive_mutex> lock(stream.group->mutex);
    if (stream.capture != nullptr) {
        stream.unjoined = true;
        return record(*stream.capture, std::move(operation));
    }
    if (stream.group->error != CUDA_SUCCESS) return take_error(*stream.group);
    if (operation.kernel != nullptr) {
        Launched& kernel = launched()[operation.kernel];
        kernel.count += 1;
        kernel.shared = std::max(kernel.shared, operation.shared);
    }
    if (!is_default(handle)) {
        add(stream, std::move(operation));
        return CUDA_SUCCESS;
    }
    const CUresult before = finish_thread();
    return before != CUDA_SUCCESS ? before : operation.run();
}

}  // namespace softgpu

using namespace softgpu;

SOFTGPU_API CUresult cuCtxSynchronize() {
    if (const CUresult error = forbid_in_capture("cuCtxSynchronize")) return error;
    return finish_all();
}

SOFTGPU_API CUresult cuStreamCreate(void** handle, unsigned) {
    auto stream = std::make_shared<Stream>();
    stream->group = group_of_thread();
    const std::lock_guard<std::recursive_mutex> lock(stream->group->mutex);
    stream->group->streams.push_back(stream);
    *handle = stream.get();
    return CUDA_SUCCESS;
}
SOFTGPU_API CUresult cuStreamCreateWithPriority(void** stream, unsigned flags, int) {
    return cuStreamCreate(stream, flags);
}
SOFTGPU_API CUresult cuStreamDestroy_v2(void* handle) {
    if (is_default(handle)) return CUDA_ERROR_INVALID_HANDLE;
    const std::shared_ptr<Stream> stream = stream_of(handle).shared_from_this();
    leave_capture(*stream);
    const CUresult error = finish(*stream);
    const std::shared_ptr<Group> group = stream->group;
    const std::lock_guard<std::recursive_mutex> lock(group->mutex);
    group->streams.erase(std::find(group->streams.begin(), group->streams.end(), stream));
    return error;
}
SOFTGPU_API CUresult cuStreamSynchronize(void* handle) {
    Stream& stream = stream_of(handle);
    if (const CUresult error = forbid_on(stream, "cuStreamSynchronize")) return error;
    return is_default(handle) ? finish_thread() : finish(stream);
}
SOFTGPU_API CUresult cuStreamQuery(void* handle) {
    Stream& stream = stream_of(handle);
    if (const CUresult error = forbid_on(stream, "cuStreamQuery")) return error;
    const std::lock_guard<std::recursive_mutex> lock(stream.group->mutex);
    if (stream.pending.empty()) return take_error(*stream.group);
    run_any(*stream.group);  // whoever asks again and again gets there
    return CUDA_ERROR_NOT_READY;
}

SOFTGPU_API CUresult cuEventCreate(void** event, unsigned) {
    *event = new Event;
    return CUDA_SUCCESS;
}
SOFTGPU_API CUresult cuEventDestroy_v2(void* event) {
    delete &event_of(event);
    return CUDA_SUCCESS;
}
SOFTGPU_API CUresult cuEventRecord(void* handle, void* stream_handle) {
    Event& event = event_of(handle);
    Stream& stream = stream_of(stream_handle);
    event.stream = stream.shared_from_this();
    event.capture = stream.capture;
    event.milliseconds = std::make_shared<double>(0);
    if (event.capture != nullptr) return CUDA_SUCCESS;
    const CUresult error = submit(stream_handle, {[at = event.milliseconds] {
                                      *at = now();
                                      return CUDA_SUCCESS;
                                  }});
    event.ticket = stream.submitted;
    return error;
}
SOFTGPU_API CUresult cuStreamWaitEvent(void* handle, void* event_handle, unsigned) {
    Stream& stream = stream_of(handle);
    const Event& event = event_of(event_handle);
    if (event.stream == nullptr) return CUDA_SUCCESS;
    if (event.capture != nullptr) return join_capture(stream, event.capture, *event.stream);
    if (stream.capture != nullptr) {
        stream.capture->invalid = true;
        return refuse(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "a capture waits for an event outside of it");
    }
    if (is_default(handle)) return reach(*event.stream, event.ticket);
    return submit(handle, {[] { return CUDA_SUCCESS; }, nullptr, event.stream, event.ticket});
}
SOFTGPU_API CUresult cuEventQuery(void* handle) {
    const Event& event = event_of(handle);
    if (event.stream == nullptr) return CUDA_SUCCESS;
    Group& group = *event.stream->group;
    const std::lock_guard<std::recursive_mutex> lock(group.mutex);
    if (event.stream->done >= event.ticket) return take_error(group);
    run_any(group);
    return CUDA_ERROR_NOT_READY;
}
SOFTGPU_API CUresult cuEventSynchronize(void* handle) {
    const Event& event = event_of(handle);
    if (event.capture != nullptr) {
        return refuse(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "cuEventSynchronize on an event of a capture");
    }
    return event.stream == nullptr ? CUDA_SUCCESS : reach(*event.stream, event.ticket);
}
SOFTGPU_API CUresult cuEventElapsedTime_v2(float* milliseconds, void* from_handle, void* to_handle) {
    const Event& from = event_of(from_handle);
    const Event& to = event_of(to_handle);
    for (const Event* event : {&from, &to}) {
        if (event->stream == nullptr || event->capture != nullptr) return CUDA_ERROR_INVALID_HANDLE;
        if (event->stream->done < event->ticket) return CUDA_ERROR_NOT_READY;
    }
    *milliseconds = static_cast<float>(*to.milliseconds - *from.milliseconds);
    return CUDA_SUCCESS;
}
SOFTGPU_API CUresult cuEventElapsedTime(float* milliseconds, void* from, void* to) {
    return cuEventElapsedTime_v2(milliseconds, from, to);
}
