// bfloat16 with AVX512-BF16.
#if defined(LSTMSERVE_AVX512_BF16)

#include "vector_avx512.h"

#include "product_bf16.h"
#include "product_float.h"

#include "path_of.h"

namespace lstmserve {

extern const Path avx512_bf16;
const Path avx512_bf16 = PathOf<Bf16Kernel, FloatKernel<0, 24>>::path("avx512_bf16", "bfloat16");

}  // namespace lstmserve

#endif
