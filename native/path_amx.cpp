// bfloat16 with AMX.
#if defined(LSTMSERVE_AMX)

#include "vector_avx512.h"

#include "product_amx.h"
#include "product_float.h"

#include "path_of.h"

namespace lstmserve {

extern const Path amx_bf16;
const Path amx_bf16 = PathOf<AmxKernel, FloatKernel<0, 24>>::path("amx_bf16", "bfloat16");

}  // namespace lstmserve

#endif
