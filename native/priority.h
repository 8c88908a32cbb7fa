// What a thread of ours is to the rest of the process.
#pragma once

#include <signal.h>
#if defined(__linux__)
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace lstmserve {

// The event loop comes first: what it does between two requests is short, and until it has done it nobody is answered.
inline void give_way() {
#if defined(__linux__)
  const auto thread = static_cast<id_t>(syscall(SYS_gettid));  // to Linux a thread has a priority of its own
  setpriority(PRIO_PROCESS, thread, getpriority(PRIO_PROCESS, thread) + 10);
#endif
}

// They are for the interpreter's main thread, which must be interrupted by them.
inline void leave_signals() {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, nullptr);
}

}  // namespace lstmserve
