// The clock of deadlines.
#pragma once

#include <time.h>

namespace lstmserve {

// Seconds of the clock of Python's time.monotonic().
inline double now() {
  timespec time;
#if defined(__APPLE__)
  clock_gettime(CLOCK_UPTIME_RAW, &time);
#else
  clock_gettime(CLOCK_MONOTONIC, &time);
#endif
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace lstmserve
