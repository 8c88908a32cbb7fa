// What this processor can do.
#pragma once

#include <vector>

#include "path.h"

namespace lstmserve {

// The paths that were compiled and that processor and operating system grant, the fastest of each precision first.
const std::vector<const Path*>& paths();

}  // namespace lstmserve
