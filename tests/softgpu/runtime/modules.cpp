// Modules, functions and launches.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <random>
#include <sstream>

#include "arena.h"
#include "driver.h"
#include "launch.h"
#include "memory.h"

namespace softgpu {

// Of the kernels in this library; defined by a file that the build writes.
extern const char* const KERNELS_HASH;

int blocks_per_multiprocessor(int threads, size_t shared);

// An entry point as the host sees it.
struct Function {
    const Kernel* kernel;
    int dynamic_limit = STATIC_LIMIT;
};

namespace {

// What an image gives access to.
struct Module {
    std::string names;  // of its kernels, each between spaces
    std::map<std::string, Function> functions;
};

std::map<std::string, Kernel>& kernels() {
    static auto* kernels = new std::map<std::string, Kernel>;
    return *kernels;
}

constexpr uint32_t FATBIN_MAGIC = 0xBA55ED50u;

struct FatbinHeader {
    uint32_t magic;
    uint16_t version, header_bytes;
    uint64_t payload_bytes;
};

// The value of a line "key value" of the manifest that ends, or is, the image.
std::string manifest_value(const char* image, const char* wanted) {
    FatbinHeader header;
    std::memcpy(&header.magic, image, sizeof header.magic);
    if (header.magic == FATBIN_MAGIC) {
        std::memcpy(&header, image, sizeof header);
        image += header.header_bytes + header.payload_bytes;
    }
    const char first[] = "b4r-kernels 1\n";
    if (std::strncmp(image, first, sizeof first - 1) != 0) return {};
    const char* end = std::strstr(image, "\nend");
    if (end == nullptr) return {};
    std::istringstream lines(std::string(image, end));
    std::string line;
    while (std::getline(lines, line)) {
        const size_t space = line.find(' ');
        if (space != std::string::npos && line.compare(0, space, wanted) == 0) return line.substr(space + 1);
    }
    return {};
}

uint64_t global_seed() {
    static const uint64_t seed = [] {
        const char* text = std::getenv("SOFTGPU_SEED");
        if (text != nullptr) return static_cast<uint64_t>(std::strtoull(text, nullptr, 10));
        return static_cast<uint64_t>(std::random_device{}());
    }();
    return seed;
}

// The next launch of the calling thread gets the next number, so that a test's launches have the same seeds
// whatever its neighbours do.
thread_local uint64_t launches_of_thread = 0;
thread_local uint64_t thread_seed = 0;
thread_local bool has_thread_seed = false;

std::string of_kernel(const Function& function) { return std::string("kernel ") + function.kernel->name + ": "; }

std::string wrong_launch(const Function& function, Index blocks, Index threads, size_t shared) {
    const Kernel& kernel = *function.kernel;
    const uint64_t count = uint64_t{threads.x} * threads.y * threads.z;
    if (count == 0 || uint64_t{blocks.x} * blocks.y * blocks.z == 0) return "a launch of no threads or no blocks";
    if (blocks.x > 2147483647u || blocks.y > 65535 || blocks.z > 65535) {
        return "more blocks than 2147483647 x 65535 x 65535";
    }
    if (threads.x > 1024 || threads.y > 1024 || threads.z > 64 || count > kernel.threads) {
        return std::to_string(count) + " threads a block; the kernel declares " + std::to_string(kernel.threads);
    }
    if (shared > static_cast<size_t>(function.dynamic_limit)) {
        return std::to_string(shared) + " bytes of dynamic shared memory; cuFuncSetAttribute allowed " +
               std::to_string(function.dynamic_limit);
    }
    return {};
}

CUresult run(const Function& function, Index blocks, Index threads, size_t shared, const void* arguments) {
    Launch launch;
    launch.kernel = function.kernel;
    launch.blocks = blocks;
    launch.threads = threads;
    launch.dynamic_shared = shared;
    launch.arguments = arguments;
    Random random{seed_of_thread() + ++launches_of_thread * 0x2545f4914f6cdd1du};
    launch.seed = random.next();
    execute(launch);
    if (launch.code == 0) {
        const std::string damage = damaged_allocation();
        if (!damage.empty()) launch.fail(ILLEGAL_ADDRESS, of_kernel(function) + damage);
    }
    if (launch.code == 0) return CUDA_SUCCESS;
    return refuse(static_cast<CUresult>(launch.code.load()),
                  launch.report + " [SOFTGPU_SEED=" + std::to_string(seed_of_thread()) + "]");
}

}  // namespace

Registration::Registration(const Kernel& kernel) {
    if (!kernels().emplace(kernel.name, kernel).second) {
        std::fprintf(stderr, "softgpu: two kernels are called %s\n", kernel.name);
        std::abort();
    }
}

uint64_t seed_of_thread() { return has_thread_seed ? thread_seed : global_seed(); }

std::map<std::string, Launched>& launched() {
    static thread_local std::map<std::string, Launched> kernels;
    return kernels;
}

}  // namespace softgpu

using namespace softgpu;

SOFTGPU_API CUresult cuModuleLoadData(void** module, const void* image) {
    *module = nullptr;
    const std::string hash = manifest_value(static_cast<const char*>(image), "hash");
    if (hash.empty()) return refuse(CUDA_ERROR_INVALID_IMAGE, "the image holds no manifest of b4r's kernels");
    if (hash != KERNELS_HASH) {
        return refuse(CUDA_ERROR_INVALID_IMAGE, "the image was made from other kernels than this software GPU: their "
                                                "hash is " + hash + ", its own " + KERNELS_HASH);
    }
    *module = new Module{" " + manifest_value(static_cast<const char*>(image), "kernels") + " ", {}};
    return CUDA_SUCCESS;
}
SOFTGPU_API CUresult cuModuleUnload(void* module) {
    delete static_cast<Module*>(module);
    return CUDA_SUCCESS;
}
SOFTGPU_API CUresult cuModuleGetFunction(void** function, void* handle, const char* name) {
    *function = nullptr;
    Module& module = *static_cast<Module*>(handle);
    const auto found = kernels().find(name);
    if (found == kernels().end() || module.names.find(std::string(" ") + name + " ") == std::string::npos) {
        return refuse(CUDA_ERROR_NOT_FOUND, std::string("no kernel of the module is called ") + name);
    }
    *function = &module.functions.emplace(name, Function{&found->second}).first->second;
    return CUDA_SUCCESS;
}

// Attributes by the numbers of CUfunction_attribute. Registers and static shared memory are known to nvcc only.
SOFTGPU_API CUresult cuFuncGetAttribute(int* value, int attribute, void* handle) {
    const Function& function = *static_cast<Function*>(handle);
    switch (attribute) {
        case 0: *value = static_cast<int>(function.kernel->threads); return CUDA_SUCCESS;
        case 1: case 2: case 3: case 4: *value = 0; return CUDA_SUCCESS;  // static shared, constant, local, registers
        case 5: case 6: *value = 80; return CUDA_SUCCESS;                 // PTX and binary version
        case 8: *value = function.dynamic_limit; return CUDA_SUCCESS;
        default: return CUDA_ERROR_INVALID_VALUE;
    }
}
SOFTGPU_API CUresult cuFuncSetAttribute(void* handle, int attribute, int value) {
    Function& function = *static_cast<Function*>(handle);
    constexpr int MAX_DYNAMIC_SHARED = 8, CARVEOUT = 9;
    if (attribute == CARVEOUT) return CUDA_SUCCESS;
    if (attribute != MAX_DYNAMIC_SHARED) return CUDA_ERROR_INVALID_VALUE;
    if (value < 0 || value > static_cast<int>(DYNAMIC_LIMIT)) {
        return refuse(CUDA_ERROR_INVALID_VALUE, of_kernel(function) + std::to_string(value) +
                                                    " bytes of dynamic shared memory; a block has at most " +
                                                    std::to_string(DYNAMIC_LIMIT));
    }
    function.dynamic_limit = value;
    return CUDA_SUCCESS;
}
SOFTGPU_API CUresult cuFuncSetCacheConfig(void*, int) { return CUDA_SUCCESS; }

SOFTGPU_API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void*, int threads, size_t shared) {
    if (threads < 1) return CUDA_ERROR_INVALID_VALUE;
    *blocks = blocks_per_multiprocessor(threads, shared);
    return CUDA_SUCCESS;
}
SOFTGPU_API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, void* function, int threads,
                                                                          size_t shared, unsigned) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, shared);
}

SOFTGPU_API CUresult cuLaunchKernel(void* handle, unsigned blocks_x, unsigned blocks_y, unsigned blocks_z,
                                    unsigned threads_x, unsigned threads_y, unsigned threads_z, unsigned shared,
                                    void* stream, void** parameters, void** extra) {
    const Function function = *static_cast<Function*>(handle);
    const Index blocks = {blocks_x, blocks_y, blocks_z}, threads = {threads_x, threads_y, threads_z};
    const std::string wrong = wrong_launch(function, blocks, threads, shared);
    if (!wrong.empty()) return refuse(CUDA_ERROR_INVALID_VALUE, of_kernel(function) + wrong);
    if (parameters == nullptr || parameters[0] == nullptr || extra != nullptr) {
        return refuse(CUDA_ERROR_INVALID_VALUE, of_kernel(function) + "one argument through kernelParams is expected");
    }
    // Its own copy: the caller's may be gone when a graph is launched. Aligned like any argument.
    const size_t words = (function.kernel->size + sizeof(max_align_t) - 1) / sizeof(max_align_t);
    std::shared_ptr<max_align_t[]> arguments(new max_align_t[words]);
    std::memcpy(arguments.get(), parameters[0], function.kernel->size);
    auto launch = [=] { return run(function, blocks, threads, shared, arguments.get()); };
    Operation operation{launch, function.kernel->name};
    operation.shared = shared;
    return submit(stream, std::move(operation));
}

// Number of launches that the calling thread asked for, graph replays included.
SOFTGPU_API uint64_t softgpu_launches() {
    uint64_t sum = 0;
    for (const auto& [name, kernel] : launched()) sum += kernel.count;
    return sum;
}
// Lines of a name, the number of launches, and the most bytes of dynamic shared memory of one.
SOFTGPU_API const char* softgpu_launched() {
    static thread_local std::string text;
    text.clear();
    for (const auto& [name, kernel] : launched())
        text += name + " " + std::to_string(kernel.count) + " " + std::to_string(kernel.shared) + "\n";
    return text.c_str();
}
SOFTGPU_API void softgpu_reset_launches() { launched().clear(); }
// The order of things in the launches of the calling thread that follow.
SOFTGPU_API void softgpu_set_seed(uint64_t seed) {
    thread_seed = seed;
    has_thread_seed = true;
    launches_of_thread = 0;
    seed_streams(seed);
}
SOFTGPU_API const char* softgpu_kernels_hash() { return KERNELS_HASH; }
