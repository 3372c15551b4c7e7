// One block of threads, each a fiber, on one thread of the host.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "arena.h"
#include "fiber.h"
#include "launch.h"

namespace softgpu {

// A cp.async that was issued and not waited for.
struct Copy {
    void* shared;
    const void* global;
    bool valid;
};

enum class State { READY, RENDEZVOUS, BARRIER, RETURNED };

struct Fiber {
    Stack stack;
    Thread view;
    unsigned number;  // within the block
    State state;
    Request* request;  // of a rendezvous
    Where barrier;
    std::vector<Copy> copies;     // oldest first
    std::vector<size_t> groups;   // copies in each committed group, oldest first
    size_t uncommitted;
};

struct Warp {
    Fiber* lanes;
    unsigned all, ready, waiting;
    unsigned syncs;  // number of __syncwarp so far
};

// What ThreadSanitizer is told about, fresh for each block: the start of the block, barriers of the block and of
// its warps. A fast thread may come to the next barrier before a slow one leaves the last, so they alternate.
struct Tokens {
    uint64_t start;
    uint64_t barrier[2];
    uint64_t warp[32][2];
};

class Block {
  public:
    Block();
    // Before blocks are run on a thread of the host.
    void enter_host_thread();
    // Runs block number `index` of the launch; false when the launch failed.
    bool run(Launch& launch, Index index);

    // Called by the running fiber.
    int barrier(int predicate, Where where);
    void rendezvous(Request& request);
    [[noreturn]] void fail(int code, const std::string& message);
    Fiber& running() { return *running_; }
    Arena& arena() { return arena_; }
    const Launch& launch() const { return *launch_; }
    void sync_warp(unsigned mask, Where where);

  private:
    static void entry();
    void begin(Launch& launch, Index index);
    Fiber* pick();
    void switch_to(Fiber* next);
    void yield();
    void finish();
    bool complete(const Request& request, const Warp& warp) const;
    void release(Warp& warp, unsigned lanes);
    std::string who_waits_where() const;

    Launch* launch_ = nullptr;
    Stack host_;
    std::unique_ptr<Fiber[]> fibers_;
    Warp warps_[32];
    unsigned count_ = 0, warp_count_ = 0;
    unsigned ready_warps_ = 0;
    Warp* warp_ = nullptr;
    Fiber* running_ = nullptr;
    Random random_{0};
    unsigned wander_ = 0;  // of 256 rendezvous, how many let another warp run
    unsigned arrived_ = 0, returned_ = 0;
    int votes_ = 0, result_ = 0;
    Arena arena_;
    std::unique_ptr<Tokens> tokens_;
    unsigned barriers_ = 0;
};

// The block that runs on this thread of the host, or null.
extern __thread Block* running_block __attribute__((tls_model("initial-exec")));

std::string describe(Index index);
std::string describe(Where where);

}  // namespace softgpu
