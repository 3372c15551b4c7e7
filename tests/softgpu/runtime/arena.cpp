#include "arena.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#ifdef SOFTGPU_ADDRESS
#include <sanitizer/asan_interface.h>
#endif

namespace softgpu {
namespace {

constexpr unsigned char POISON = 0xff;
constexpr unsigned char GUARD = 0xa5;
constexpr size_t ZONE = 64;
constexpr size_t PAGE = 4096;
// Static variables with the zones between them, then dynamic memory up to the last byte.
constexpr size_t STATIC_ROOM = 2 * STATIC_LIMIT;
constexpr size_t ROOM = (STATIC_ROOM + DYNAMIC_LIMIT + ZONE + PAGE - 1) / PAGE * PAGE;

void hide(unsigned char* from, unsigned char* to) {
#ifdef SOFTGPU_ADDRESS
    __asan_unpoison_memory_region(from, static_cast<size_t>(to - from));
#endif
    std::memset(from, GUARD, static_cast<size_t>(to - from));
#ifdef SOFTGPU_ADDRESS
    __asan_poison_memory_region(from, static_cast<size_t>(to - from));
#endif
}

void show(unsigned char* from, size_t bytes) {
#ifdef SOFTGPU_ADDRESS
    __asan_unpoison_memory_region(from, bytes);
#endif
    std::memset(from, POISON, bytes);
}

[[maybe_unused]] bool is_guard(const unsigned char* from, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) {
        if (from[i] != GUARD) return false;
    }
    return true;
}

unsigned char* aligned_up(unsigned char* pointer, size_t alignment) {
    return reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(pointer) + alignment - 1) & ~(alignment - 1));
}

}  // namespace

void Arena::map() {
#ifdef SOFTGPU_THREAD
    // From malloc and fresh for each block: ThreadSanitizer then forgets what the last block did here.
    std::free(base_);
    base_ = static_cast<unsigned char*>(std::aligned_alloc(PAGE, ROOM));
    if (base_ == nullptr) std::abort();
#else
    if (base_ != nullptr) return;
    void* pages = mmap(nullptr, ROOM + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) {
        std::perror("softgpu: no memory for the shared memory of a block");
        std::abort();
    }
    base_ = static_cast<unsigned char*>(pages) + PAGE;
    mprotect(base_, ROOM, PROT_READ | PROT_WRITE);
#endif
    end_ = base_ + ROOM;
}

void Arena::begin_block(size_t dynamic_bytes) {
#ifdef SOFTGPU_ADDRESS
    if (base_ != nullptr) __asan_unpoison_memory_region(base_, ROOM);
#endif
    map();
    variables_.clear();
    static_bytes_ = 0;
    // Dynamic memory ends as near to the end as its alignment of 128 bytes allows.
    dynamic_bytes_ = dynamic_bytes;
    dynamic_ = end_ - (dynamic_bytes + 127) / 128 * 128;
#ifdef SOFTGPU_ADDRESS
    __asan_poison_memory_region(base_, ROOM);
#endif
    hide(base_, base_ + ZONE);
    static_next_ = base_ + ZONE;
    hide(dynamic_ - ZONE, dynamic_);
    show(dynamic_, dynamic_bytes);
    hide(dynamic_ + dynamic_bytes, end_);
}

void* Arena::variable(const SharedTag& tag) {
    for (const Variable& variable : variables_) {
        if (variable.tag == &tag) return variable.memory;
    }
    unsigned char* memory = aligned_up(static_next_, tag.alignment < 16 ? 16 : tag.alignment);
    static_bytes_ += tag.size;
    if (static_bytes_ > STATIC_LIMIT || static_bytes_ + dynamic_bytes_ > DYNAMIC_LIMIT) return nullptr;
    if (memory + tag.size + ZONE > base_ + STATIC_ROOM) return nullptr;
    hide(static_next_, memory);
    show(memory, tag.size);
    static_next_ = memory + tag.size + ZONE;
    hide(memory + tag.size, static_next_);
    variables_.push_back({&tag, memory});
    return memory;
}

bool Arena::holds(const void* pointer, size_t bytes) const {
    const unsigned char* from = static_cast<const unsigned char*>(pointer);
    if (from >= dynamic_ && from + bytes <= dynamic_ + dynamic_bytes_) return true;
    for (const Variable& variable : variables_) {
        if (from >= variable.memory && from + bytes <= variable.memory + variable.tag->size) return true;
    }
    return false;
}

std::string Arena::damage() const {
#ifdef SOFTGPU_ADDRESS
    return {};  // seen when it happens
#else
    if (!is_guard(base_, ZONE)) return "before the first shared variable";
    for (const Variable& variable : variables_) {
        if (!is_guard(variable.memory + variable.tag->size, ZONE)) {
            return std::string("beyond the end of the shared variable ") + variable.tag->name;
        }
    }
    if (!is_guard(dynamic_ - ZONE, ZONE)) return "before the dynamic shared memory";
    unsigned char* dynamic_end = dynamic_ + dynamic_bytes_;
    if (!is_guard(dynamic_end, static_cast<size_t>(end_ - dynamic_end))) {
        return "beyond the end of the dynamic shared memory (" + std::to_string(dynamic_bytes_) + " bytes)";
    }
    return {};
#endif
}

}  // namespace softgpu
