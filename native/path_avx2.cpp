// float32 with AVX2 and FMA.
#if defined(LSTMSERVE_AVX2)

#include "vector_avx2.h"

#include "product_float.h"

#include "path_of.h"

namespace lstmserve {

using Kernel = FloatKernel<1, 6>;
extern const Path avx2;
const Path avx2 = PathOf<Kernel, Kernel>::path("avx2", "float32");

}  // namespace lstmserve

#endif
