#include "memory.h"

#include <sys/mman.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>

namespace softgpu {
namespace {

constexpr size_t PAGE = 4096;
// Addresses on both sides of an allocation that nothing else gets.
constexpr size_t ZONE = size_t{1} << 20;
constexpr unsigned char POISON = 0xff;
constexpr unsigned char GUARD = 0xa5;
// Kernels ask for 16 bytes at most. A GPU aligns to 256; the end of an allocation is watched more closely here.
constexpr size_t ALIGNMENT = 16;

struct Owner {
    size_t used = 0;
    size_t limit = SIZE_MAX;
};
thread_local Owner* const this_owner = new Owner;  // outlives its thread: allocations point to it

struct Allocation {
    size_t bytes;
    unsigned char* map;
    size_t map_bytes;
    bool damaged;
    Owner* owner;
};

struct Device {
    std::mutex mutex;
    std::map<uintptr_t, Allocation> allocations;
    size_t used = 0;
    size_t total;
    Device() {
        const char* text = std::getenv("SOFTGPU_MEMORY");
        const unsigned long long wanted = text == nullptr ? 0 : std::strtoull(text, nullptr, 10);
        total = wanted > 0 ? static_cast<size_t>(wanted) : size_t{8} << 30;
    }
};

Device& device() {
    static Device* device = new Device;
    return *device;
}

// The live allocation at or below an address.
std::map<uintptr_t, Allocation>::iterator at_or_below(Device& device, uintptr_t address) {
    auto above = device.allocations.upper_bound(address);
    return above == device.allocations.begin() ? device.allocations.end() : std::prev(above);
}

#ifdef SOFTGPU_SANITIZED

// From the sanitizer's allocator, which has zones of its own.
unsigned char* take_pages(size_t bytes, Allocation& allocation) {
    void* memory = nullptr;
    if (posix_memalign(&memory, ALIGNMENT, bytes) != 0) return nullptr;
    allocation.map = static_cast<unsigned char*>(memory);
    return allocation.map;
}
void give_pages(const Allocation& allocation) { std::free(allocation.map); }
bool intact(uintptr_t, const Allocation&) { return true; }

#else

// Pages of their own, the last byte as near to the zone behind them as the alignment allows.
unsigned char* take_pages(size_t bytes, Allocation& allocation) {
    const size_t room = (bytes + PAGE - 1) / PAGE * PAGE;
    allocation.map_bytes = room + 2 * ZONE;
    void* map = mmap(nullptr, allocation.map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) return nullptr;
    allocation.map = static_cast<unsigned char*>(map);
    unsigned char* pages = allocation.map + ZONE;
    mprotect(pages, room, PROT_READ | PROT_WRITE);
    unsigned char* memory = pages + room - (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    std::memset(pages, GUARD, static_cast<size_t>(memory - pages));
    std::memset(memory + bytes, GUARD, static_cast<size_t>(pages + room - (memory + bytes)));
    return memory;
}
// The pages go, the addresses stay taken for a while: what still uses them is seen.
void give_pages(const Allocation& allocation) {
    constexpr size_t KEPT = 4096;
    static auto* freed = new std::deque<Allocation>;
    constexpr int FLAGS = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    mmap(allocation.map, allocation.map_bytes, PROT_NONE, FLAGS, -1, 0);
    freed->push_back(allocation);
    if (freed->size() <= KEPT) return;
    munmap(freed->front().map, freed->front().map_bytes);
    freed->pop_front();
}

// Whether the rest of the pages is as it was; it is less than a page on each side.
bool intact(uintptr_t address, const Allocation& allocation) {
    static const auto* guard = [] {
        auto* guard = new std::array<unsigned char, PAGE>;
        guard->fill(GUARD);
        return guard;
    }();
    const unsigned char* memory = reinterpret_cast<const unsigned char*>(address);
    const unsigned char* begin = allocation.map + ZONE;
    const unsigned char* after = memory + allocation.bytes;
    const unsigned char* end = allocation.map + allocation.map_bytes - ZONE;
    return std::memcmp(begin, guard->data(), static_cast<size_t>(memory - begin)) == 0 &&
           std::memcmp(after, guard->data(), static_cast<size_t>(end - after)) == 0;
}

#endif

}  // namespace

void* allocate(size_t bytes) {
    Device& all = device();
    const std::lock_guard<std::mutex> lock(all.mutex);
    Owner& owner = *this_owner;
    if (bytes > all.total - all.used || owner.used > owner.limit || bytes > owner.limit - owner.used) return nullptr;
    Allocation allocation = {bytes, nullptr, 0, false, &owner};
    unsigned char* memory = take_pages(bytes, allocation);
    if (memory == nullptr) return nullptr;
    std::memset(memory, POISON, bytes);
    all.used += bytes;
    owner.used += bytes;
    all.allocations.emplace(reinterpret_cast<uintptr_t>(memory), allocation);
    return memory;
}

bool release(void* pointer) {
    Device& all = device();
    const std::lock_guard<std::mutex> lock(all.mutex);
    const auto found = all.allocations.find(reinterpret_cast<uintptr_t>(pointer));
    if (found == all.allocations.end()) return false;
    all.used -= found->second.bytes;
    found->second.owner->used -= found->second.bytes;
    give_pages(found->second);
    all.allocations.erase(found);
    return true;
}

bool is_allocated(const void* pointer, size_t bytes) {
    Device& all = device();
    const std::lock_guard<std::mutex> lock(all.mutex);
    const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
    const auto found = at_or_below(all, address);
    return found != all.allocations.end() && bytes <= found->second.bytes &&
           address - found->first <= found->second.bytes - bytes;
}

std::string check_range(const void* pointer, size_t bytes) {
    if (bytes == 0 || is_allocated(pointer, bytes)) return {};
    return std::to_string(bytes) + " bytes at " + describe_address(pointer);
}

std::string describe_address(const void* pointer) {
    Device& all = device();
    const std::lock_guard<std::mutex> lock(all.mutex);
    const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
    char text[32];
    std::snprintf(text, sizeof text, "%p", pointer);
    const auto below = at_or_below(all, address);
    const auto above = all.allocations.upper_bound(address);
    const uintptr_t gap_above = above == all.allocations.end() ? UINTPTR_MAX : above->first - address;
    if (below != all.allocations.end()) {
        const size_t offset = address - below->first;
        const size_t bytes = below->second.bytes;
        const std::string where = " an allocation of " + std::to_string(bytes) + " bytes";
        if (offset < bytes) return std::string(text) + ", byte " + std::to_string(offset) + " of" + where;
        if (offset - bytes < gap_above && offset - bytes < (size_t{1} << 30)) {
            return std::string(text) + ", " + std::to_string(offset - bytes) + " bytes past the end of" + where;
        }
    }
    if (gap_above < (size_t{1} << 30)) {
        return std::string(text) + ", " + std::to_string(gap_above) + " bytes before an allocation of " +
               std::to_string(above->second.bytes) + " bytes";
    }
    return std::string(text) + ", in no allocation of the device";
}

std::string damaged_allocation() {
    Device& all = device();
    const std::lock_guard<std::mutex> lock(all.mutex);
    for (auto& [address, allocation] : all.allocations) {
        if (allocation.damaged || intact(address, allocation)) continue;
        allocation.damaged = true;
        return "wrote beside an allocation of " + std::to_string(allocation.bytes) + " bytes";
    }
    return {};
}

MemoryInfo memory_info() {
    Device& all = device();
    const std::lock_guard<std::mutex> lock(all.mutex);
    const Owner& owner = *this_owner;
    size_t free = all.total - all.used;
    const size_t left = owner.used > owner.limit ? 0 : owner.limit - owner.used;
    return {left < free ? left : free, all.total};
}

void limit_memory(size_t bytes) {
    Owner& owner = *this_owner;
    const std::lock_guard<std::mutex> lock(device().mutex);
    owner.limit = bytes > SIZE_MAX - owner.used ? SIZE_MAX : owner.used + bytes;
}

}  // namespace softgpu
