// float32 on any processor.
#include "vector_portable.h"

#include "product_float.h"

#include "path_of.h"

namespace lstmserve {

using Kernel = FloatKernel<1, 2>;
extern const Path portable;
const Path portable = PathOf<Kernel, Kernel>::path("portable", "float32");

}  // namespace lstmserve
