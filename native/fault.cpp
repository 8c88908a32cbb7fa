#include "fault.h"

#if defined(LSTMSERVE_FAULTS)

#include <condition_variable>
#include <map>
#include <mutex>
#include <new>
#include <set>
#include <stdexcept>
#include <utility>

namespace lstmserve {
namespace {

struct Faults {
  std::mutex mutex;
  std::condition_variable released;
  std::map<std::pair<Point, std::int32_t>, Fault> injected;
  std::vector<std::int32_t> met;
  std::set<std::int32_t> hanging;  // tokens
};

// Never destroyed: a thread that hangs when the process ends waits for it.
Faults& faults() {
  static Faults& all = *new Faults;
  return all;
}

}  // namespace

void inject(Point point, std::int32_t token, Fault fault) {
  const std::lock_guard lock(faults().mutex);
  faults().injected.insert_or_assign({point, token}, fault);
}

std::vector<std::int32_t> met() {
  const std::lock_guard lock(faults().mutex);
  return faults().met;
}

void release(std::int32_t token) {
  const std::lock_guard lock(faults().mutex);
  faults().hanging.erase(token);
  faults().released.notify_all();
}

bool meet(Point point, const std::int32_t* tokens, int number) {
  std::unique_lock lock(faults().mutex);
  for (int n = 0; n < number && !faults().injected.empty(); ++n) {
    const auto found = faults().injected.find({point, tokens[n]});
    if (found == faults().injected.end()) continue;
    const Fault fault = found->second;
    faults().injected.erase(found);
    faults().met.push_back(tokens[n]);
    if (fault == Fault::no_memory) throw std::bad_alloc();
    if (fault == Fault::error) throw std::runtime_error("an injected fault");
    if (fault == Fault::not_finite) return true;
    faults().hanging.insert(tokens[n]);
    faults().released.wait(lock, [=] { return !faults().hanging.count(tokens[n]); });
  }
  return false;
}

}  // namespace lstmserve

#endif
