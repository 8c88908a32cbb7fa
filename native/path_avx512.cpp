// float32 with AVX-512.
#if defined(LSTMSERVE_AVX512)

#include "vector_avx512.h"

#include "product_float.h"

#include "path_of.h"

namespace lstmserve {

using Kernel = FloatKernel<0, 24>;
extern const Path avx512;
const Path avx512 = PathOf<Kernel, Kernel>::path("avx512", "float32");

}  // namespace lstmserve

#endif
