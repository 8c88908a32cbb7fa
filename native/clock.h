// The clock of deadlines.
#pragma once

#include <time.h>

namespace lstmserve {

// Seconds of the clock of Python's time.monotonic().
inline double now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace lstmserve
