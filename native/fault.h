// Faults that a test puts in a sequence's way. A build without LSTMSERVE_FAULTS has none, and no code for them.
#pragma once

#include <cstdint>
#include <vector>

namespace lstmserve {

// Where a sequence meets its fault: as it is started, put into a lane, stepped over the token, given to the next layer,
// or to the linear layer.
enum class Point { start, place, step, advance, head };

#if defined(LSTMSERVE_FAULTS)

enum class Fault { no_memory, error, not_finite, hang };

// The first sequence that comes to the point with this token id meets the fault, once.
void inject(Point point, std::int32_t token, Fault fault);
// Token ids whose fault was met.
std::vector<std::int32_t> met();
// The thread that hangs by this token id goes on.
void release(std::int32_t token);
// Throws std::bad_alloc or std::runtime_error, or hangs. True: the sequence's numbers shall not be finite.
bool meet(Point point, const std::int32_t* tokens, int number);

#else

constexpr bool meet(Point, const std::int32_t*, int) { return false; }

#endif

}  // namespace lstmserve
