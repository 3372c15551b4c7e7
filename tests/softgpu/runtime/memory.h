// The memory of the device: allocations of the host, filled with 0xff, between zones that nobody may touch.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace softgpu {

// Null when the device, or the limit of the calling thread, has not that much left.
void* allocate(size_t bytes);
// False when nothing was allocated there.
bool release(void* pointer);
// Whether all of the range is in one live allocation; empty if so, else what is wrong.
std::string check_range(const void* pointer, size_t bytes);
bool is_allocated(const void* pointer, size_t bytes);
// "0x7f..., 4 bytes past the end of an allocation of 64 bytes"
std::string describe_address(const void* pointer);
// Empty, or which allocation was written beside (each is told once).
std::string damaged_allocation();

struct MemoryInfo {
    size_t free, total;
};
MemoryInfo memory_info();
// Lets the calling thread have at most `bytes` more than it has now; SIZE_MAX: as much as there is.
void limit_memory(size_t bytes);

}  // namespace softgpu
