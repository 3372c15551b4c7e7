// What -fsanitize=undefined calls: each of its findings ends the launch. The layouts are those of the compilers'
// runtime library, of which only the source location and the alignment are read.
#include "softgpu/runtime.h"

namespace {

struct Location {
    const char* file;
    uint32_t line, column;
};

struct TypeMismatch {
    Location location;
    const void* type;
    unsigned char log_alignment;
    unsigned char kind;
};

[[noreturn]] void report(const void* data, const char* what) {
    const Location& location = *static_cast<const Location*>(data);
    softgpu::fault(softgpu::LAUNCH_FAILED, "%s (%s:%u)", what, location.file, location.line);
}

}  // namespace

extern "C" {

void __ubsan_handle_type_mismatch_v1(TypeMismatch* data, uintptr_t pointer) {
    const uintptr_t alignment = uintptr_t{1} << data->log_alignment;
    if (pointer == 0) report(data, "access through a null pointer");
    softgpu::fault(softgpu::MISALIGNED_ADDRESS, "address %p is no multiple of %zu (%s:%u)",
                   reinterpret_cast<void*>(pointer), static_cast<size_t>(alignment), data->location.file,
                   data->location.line);
}

void __ubsan_handle_out_of_bounds(void* data, uintptr_t) { report(data, "index out of the bounds of an array"); }
void __ubsan_handle_divrem_overflow(void* data, uintptr_t, uintptr_t) { report(data, "integer division by zero"); }
void __ubsan_handle_shift_out_of_bounds(void* data, uintptr_t, uintptr_t) { report(data, "shift by too many bits"); }
void __ubsan_handle_add_overflow(void* data, uintptr_t, uintptr_t) { report(data, "overflow of a signed sum"); }
void __ubsan_handle_sub_overflow(void* data, uintptr_t, uintptr_t) { report(data, "overflow of a signed difference"); }
void __ubsan_handle_mul_overflow(void* data, uintptr_t, uintptr_t) { report(data, "overflow of a signed product"); }
void __ubsan_handle_negate_overflow(void* data, uintptr_t) { report(data, "overflow of a signed negation"); }
void __ubsan_handle_float_cast_overflow(void* data, uintptr_t) { report(data, "float that fits no integer (NaN?)"); }
void __ubsan_handle_builtin_unreachable(void* data) { report(data, "unreachable code was reached"); }
void __ubsan_handle_missing_return(void* data) { report(data, "a function ended without its value"); }

}  // extern "C"
