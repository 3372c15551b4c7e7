#include "block.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "order.h"

namespace softgpu {

__thread Thread* current = nullptr;
__thread Block* running_block = nullptr;

std::string describe(Index index) {
    return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) + ")";
}

std::string describe(Where where) {
    return std::string(where.what) + " (" + where.file + ":" + std::to_string(where.line) + ")";
}

Block::Block() : fibers_(new Fiber[1024]) {}

void Block::enter_host_thread() { adopt_stack(host_); }

void Block::begin(Launch& launch, Index index) {
    launch_ = &launch;
    count_ = launch.threads.x * launch.threads.y * launch.threads.z;
    warp_count_ = (count_ + 31) / 32;
    const uint64_t number = index.x + launch.blocks.x * (index.y + uint64_t{launch.blocks.y} * index.z);
    random_.state = launch.seed + number * 0xd1342543de82ef95u;
    // Sometimes a warp runs to the next barrier before another starts, sometimes they take turns.
    const unsigned choices[] = {0, 16, 128, 256};
    wander_ = choices[random_.next() & 3u];
    arrived_ = returned_ = 0;
    votes_ = 0;
    barriers_ = 0;
    arena_.begin_block(launch.dynamic_shared);
#ifdef SOFTGPU_THREAD
    tokens_.reset();
#endif
    if (tokens_ == nullptr) tokens_ = std::make_unique<Tokens>();
    order_release(&tokens_->start);
    for (unsigned number = 0; number < count_; ++number) {
        Fiber& fiber = fibers_[number];
        if (fiber.stack.bottom == nullptr) make_stack(fiber.stack, number);
        prepare_stack(fiber.stack, entry);
        const Index threads = launch.threads;
        fiber.view.thread = {number % threads.x, number / threads.x % threads.y, number / threads.x / threads.y};
        fiber.view.block = index;
        fiber.view.threads = threads;
        fiber.view.blocks = launch.blocks;
        fiber.number = number;
        fiber.state = State::READY;
        fiber.copies.clear();
        fiber.groups.clear();
        fiber.uncommitted = 0;
    }
    for (unsigned number = 0; number < warp_count_; ++number) {
        Warp& warp = warps_[number];
        const unsigned lanes = count_ - 32 * number;
        warp.lanes = &fibers_[32 * number];
        warp.all = warp.ready = lanes >= 32 ? ~0u : (1u << lanes) - 1;
        warp.waiting = 0;
        warp.syncs = 0;
    }
    ready_warps_ = warp_count_ == 32 ? ~0u : (1u << warp_count_) - 1;
    warp_ = &warps_[random_.pick(ready_warps_)];
}

bool Block::run(Launch& launch, Index index) {
    begin(launch, index);
    running_block = this;
    running_ = pick();
    current = &running_->view;
    switch_stack(host_, running_->stack);
    running_block = nullptr;
    current = nullptr;
    if (launch.code != 0) return false;
    const std::string damage = arena_.damage();
    if (!damage.empty()) {
        launch.fail(ILLEGAL_ADDRESS, std::string("kernel ") + launch.kernel->name + ", block " + describe(index) +
                                         ": wrote " + damage);
        return false;
    }
    return true;
}

void Block::entry() {
    arrived_on_stack();
    Block& block = *running_block;
    order_acquire(&block.tokens_->start);
    block.launch_->kernel->run(block.launch_->arguments);
    block.finish();
}

// The fiber to run next, within the warp at hand while that has one; null when none can run.
Fiber* Block::pick() {
    if (warp_->ready == 0) {
        ready_warps_ &= ~(1u << (warp_ - warps_));
        if (ready_warps_ == 0) return nullptr;
        warp_ = &warps_[random_.pick(ready_warps_)];
    }
    const unsigned lane = random_.pick(warp_->ready);
    warp_->ready &= ~(1u << lane);
    return &warp_->lanes[lane];
}

void Block::switch_to(Fiber* next) {
    Fiber* from = running_;
    if (next == from) return;
    running_ = next;
    current = &next->view;
    switch_stack(from->stack, next->stack);
}

// Lets another fiber run; the caller's state says what it waits for.
void Block::yield() {
    Fiber* next = pick();
    if (next == nullptr) fail(LAUNCH_FAILED, "divergence: not all threads can go on: " + who_waits_where());
    switch_to(next);
}

void Block::finish() {
    order_release(launch_);
    running_->state = State::RETURNED;
    running_->stack.abandoned = false;
    returned_ += 1;
    Fiber* next = pick();
    if (next == nullptr && returned_ < count_) {
        fail(LAUNCH_FAILED, "divergence: not all threads can go on: " + who_waits_where());
    }
    Stack& to = next == nullptr ? host_ : next->stack;
    Fiber* from = running_;
    running_ = next;
    if (next != nullptr) current = &next->view;
    switch_stack(from->stack, to, true);
    __builtin_unreachable();
}

void Block::fail(int code, const std::string& message) {
    launch_->fail(code, std::string("kernel ") + launch_->kernel->name + ", block " + describe(running_->view.block) +
                            ", thread " + describe(running_->view.thread) + ": " + message);
    order_release(launch_);
    switch_stack(running_->stack, host_, true);
    __builtin_unreachable();
}

void Block::release(Warp& warp, unsigned lanes) {
    warp.ready |= lanes;
    ready_warps_ |= 1u << (&warp - warps_);
}

int Block::barrier(int predicate, Where where) {
    Fiber& self = *running_;
    uint64_t* token = &tokens_->barrier[barriers_ & 1u];
    order_release(token);
    self.state = State::BARRIER;
    self.barrier = where;
    votes_ += predicate != 0;
    arrived_ += 1;
    if (arrived_ == count_) {
        for (unsigned number = 0; number < count_; ++number) {
            const Where& other = fibers_[number].barrier;
            if (other.line != where.line || std::strcmp(other.file, where.file) != 0) {
                fail(LAUNCH_FAILED, "divergent barrier: " + who_waits_where());
            }
        }
        for (unsigned number = 0; number < count_; ++number) fibers_[number].state = State::READY;
        for (unsigned number = 0; number < warp_count_; ++number) release(warps_[number], warps_[number].all);
        arrived_ = 0;
        result_ = votes_;
        votes_ = 0;
        barriers_ += 1;
        warp_ = &warps_[random_.pick(ready_warps_)];
    }
    yield();
    order_acquire(token);
    // Nobody gets to the next barrier's end before all have left this one with its result.
    return result_;
}

// Whether all lanes of the request's mask wait in the same instruction.
bool Block::complete(const Request& request, const Warp& warp) const {
    if ((warp.waiting & request.mask) != request.mask) return false;
    for (unsigned lanes = request.mask; lanes != 0; lanes &= lanes - 1) {
        const Request& other = *warp.lanes[__builtin_ctz(lanes)].request;
        if (other.combine != request.combine || other.mask != request.mask || other.where.line != request.where.line) {
            return false;
        }
    }
    return true;
}

void Block::rendezvous(Request& request) {
    Fiber& self = *running_;
    const unsigned lane = self.number % 32;
    Warp& warp = *warp_;
    const bool absent = (request.mask & ~warp.all) != 0;
    if (absent || (request.mask >> lane & 1u) == 0) {
        char mask[11];
        std::snprintf(mask, sizeof mask, "0x%08x", request.mask);
        fail(LAUNCH_FAILED, describe(request.where) + " with mask " + mask +
                                (absent ? ": the warp has fewer lanes" : ": the caller is not in it"));
    }
    self.state = State::RENDEZVOUS;
    self.request = &request;
    warp.waiting |= 1u << lane;
    if (complete(request, warp)) {
        Request* lanes[32] = {};
        for (unsigned rest = request.mask; rest != 0; rest &= rest - 1) {
            const unsigned other = static_cast<unsigned>(__builtin_ctz(rest));
            lanes[other] = warp.lanes[other].request;
            warp.lanes[other].state = State::READY;
        }
        request.combine(lanes);
        warp.waiting &= ~request.mask;
        warp.ready |= request.mask & ~(1u << lane);
        if ((random_.next() & 255u) >= wander_) return;  // the last to come is the first to go on
        warp.ready |= 1u << lane;
        warp_ = &warps_[random_.pick(ready_warps_)];
    }
    yield();
}

namespace {
void combine_nothing(Request* const (&)[32]) {}
}  // namespace

void Block::sync_warp(unsigned mask, Where where) {
    Warp& warp = *warp_;
    uint64_t* token = &tokens_->warp[warp_ - warps_][warp.syncs & 1u];
    order_release(token);
    Request request{combine_nothing, mask, where};
    const unsigned before = warp.syncs;
    rendezvous(request);
    if (warp.syncs == before) warp.syncs += 1;
    order_acquire(token);
}

// "threads 0-31 wait at __syncthreads (f.cu:12); threads 32-63 have returned"
std::string Block::who_waits_where() const {
    std::string text;
    std::string last;
    unsigned from = 0;
    for (unsigned number = 0; number <= count_; ++number) {
        std::string here;
        if (number < count_) {
            const Fiber& fiber = fibers_[number];
            const Where where = fiber.state == State::BARRIER      ? fiber.barrier
                                : fiber.state == State::RENDEZVOUS ? fiber.request->where
                                                                   : Where{nullptr, nullptr, 0};
            here = fiber.state == State::RETURNED ? "returned"
                   : where.what == nullptr
                       ? "could run"
                       : "wait in " + describe(where);
        }
        if (number > 0 && here != last) {
            if (text.size() > 1000) return text + "; ...";
            text += (text.empty() ? "threads " : "; threads ") + std::to_string(from) + "-" +
                    std::to_string(number - 1) + " " + last;
            from = number;
        }
        last = here;
    }
    return text;
}

}  // namespace softgpu
