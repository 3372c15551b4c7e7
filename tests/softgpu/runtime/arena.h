// The shared memory of a block, with zones between its variables that nobody may write.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "softgpu/runtime.h"

namespace softgpu {

constexpr size_t STATIC_LIMIT = 48 * 1024;
constexpr size_t DYNAMIC_LIMIT = 99 * 1024;

class Arena {
  public:
    // Fresh memory, every byte 0xff.
    void begin_block(size_t dynamic_bytes);
    // Memory of a variable; null when the block has more than STATIC_LIMIT bytes of them, or more than
    // DYNAMIC_LIMIT together with dynamic memory.
    void* variable(const SharedTag& tag);
    void* dynamic() const { return dynamic_; }
    bool holds(const void* pointer, size_t bytes) const;
    // Empty, or which zone was written.
    std::string damage() const;

  private:
    struct Variable {
        const SharedTag* tag;
        unsigned char* memory;
    };
    void map();

    unsigned char* base_ = nullptr;
    unsigned char* end_ = nullptr;
    unsigned char* dynamic_ = nullptr;
    unsigned char* static_next_ = nullptr;
    size_t dynamic_bytes_ = 0;
    size_t static_bytes_ = 0;
    std::vector<Variable> variables_;
};

}  // namespace softgpu
