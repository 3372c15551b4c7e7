// What kernels see instead of the CUDA toolkit's headers when a C++ compiler compiles them for the software GPU.
//
// Everything a kernel may use is declared below this folder; what is absent (float atomics, __activemask,
// __shared__ without its macro, wmma) is absent on purpose and a kernel that uses it does not compile.
#pragma once

// A kernel file is compiled inside an unnamed namespace, so that two files may use one name for two things, as
// under nvcc. Whatever it may include from the standard library therefore has to be included here before.
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <math.h>
#include <stdint.h>
#include <type_traits>
#include <utility>

#include "softgpu/atomics.h"
#include "softgpu/kernel.h"
#include "softgpu/mathematics.h"
#include "softgpu/ptx.h"
#include "softgpu/runtime.h"
#include "softgpu/types.h"
#include "softgpu/warp.h"
