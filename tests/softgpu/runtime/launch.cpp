#include "launch.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <limits>
#include <memory>
#include <thread>
#include <vector>

#include "block.h"
#include "order.h"
#include "signals.h"

namespace softgpu {
namespace {

// Blocks that a thread of the host runs in turn. To ThreadSanitizer all that happens on one fiber is in order, so
// what two blocks do can only be a race while each has fibers of its own; making those anew for every block would
// take nearly all the time. Blocks of a launch come in random order, so any two are apart in most runs.
#ifdef SOFTGPU_THREAD
constexpr size_t TURNS = 3;
#else
constexpr size_t TURNS = 1;
#endif

// Blocks with their stacks, kept from launch to launch.
class Pool {
  public:
    std::unique_ptr<Block> take() {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (blocks_.empty()) return std::make_unique<Block>();
        std::unique_ptr<Block> block = std::move(blocks_.back());
        blocks_.pop_back();
        return block;
    }
    void give(std::unique_ptr<Block> block) {
        const std::lock_guard<std::mutex> lock(mutex_);
        blocks_.push_back(std::move(block));
    }

  private:
    std::mutex mutex_;
    std::vector<std::unique_ptr<Block>> blocks_;
};

Pool& pool() {
    static Pool* pool = new Pool;  // never destroyed: tests may end while another thread still launches
    return *pool;
}

unsigned host_threads() {
#ifdef SOFTGPU_THREAD
    return 1;  // races between fibers are found without races between threads
#else
    static const unsigned threads = [] {
        const char* text = std::getenv("SOFTGPU_THREADS");
        const int wanted = text == nullptr ? 0 : std::atoi(text);
        return wanted > 0 ? static_cast<unsigned>(wanted) : std::max(1u, std::thread::hardware_concurrency());
    }();
    return threads;
#endif
}

// Whether this launch comes after those that SOFTGPU_LOST_AFTER allows the process.
bool device_is_lost() {
    static const long allowed = [] {
        const char* text = std::getenv("SOFTGPU_LOST_AFTER");
        return text == nullptr ? std::numeric_limits<long>::max() : std::atol(text);
    }();
    static std::atomic<long> launches{0};
    return launches++ >= allowed;
}

std::vector<uint32_t> shuffled(size_t count, uint64_t seed) {
    std::vector<uint32_t> order(count);
    for (size_t i = 0; i < count; ++i) order[i] = static_cast<uint32_t>(i);
    Random random{seed};
    for (size_t i = count; i > 1; --i) std::swap(order[i - 1], order[random.next() % i]);
    return order;
}

}  // namespace

void Launch::fail(int why, const std::string& what) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (code != 0) return;
    report = what;
    code = why;
}

void execute(Launch& launch) {
    if (device_is_lost()) return launch.fail(LAUNCH_FAILED, "the device is lost");
    const size_t count = size_t{launch.blocks.x} * launch.blocks.y * launch.blocks.z;
    const std::vector<uint32_t> order = shuffled(count, launch.seed);
    std::atomic<size_t> next{0};
    auto work = [&] {
        const SignalStack signal_stack;
        std::unique_ptr<Block> turns[TURNS];
        for (auto& block : turns) {
            block = pool().take();
            block->enter_host_thread();
        }
        size_t turn = 0;
        for (size_t at = next++; at < count && launch.code == 0; at = next++) {
            const unsigned number = order[at];
            const Index blocks = launch.blocks;
            const Index index = {number % blocks.x, number / blocks.x % blocks.y, number / blocks.x / blocks.y};
            turns[turn++ % TURNS]->run(launch, index);
        }
        for (auto& block : turns) pool().give(std::move(block));
    };
    // Starting a thread of the host costs as much as running some hundred of the grid's.
    const size_t threads = size_t{launch.threads.x} * launch.threads.y * launch.threads.z;
    const size_t workers = std::min<size_t>({host_threads(), count, count * threads / 1024});
    std::vector<std::thread> crew;
    for (size_t i = 1; i < workers; ++i) crew.emplace_back(work);
    work();
    for (std::thread& helper : crew) helper.join();
    order_acquire(&launch);
}

}  // namespace softgpu
