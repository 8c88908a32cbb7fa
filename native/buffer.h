// Memory for states, weights and tables: zeroed, aligned to cache lines.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

namespace lstmserve {

// Large buffers take memory only as they are written to.
class Buffer {
 public:
  Buffer() = default;
  // Throws std::bad_alloc.
  explicit Buffer(std::size_t bytes) : bytes_(bytes) {
    if (!bytes) return;
    memory_ = std::calloc(bytes + kAlign, 1);
    if (!memory_) throw std::bad_alloc();
  }
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    std::swap(memory_, other.memory_);
    return *this;
  }
  ~Buffer() { std::free(memory_); }

  std::size_t bytes() const { return bytes_; }
  void* at(std::size_t byte) const { return static_cast<char*>(data()) + byte; }
  // null where there are no bytes
  void* data() const {
    if (!memory_) return nullptr;
    const auto address = reinterpret_cast<std::uintptr_t>(memory_);
    return static_cast<char*>(memory_) + (kAlign - address % kAlign) % kAlign;
  }
  float* floats() const { return static_cast<float*>(data()); }

 private:
  static constexpr std::size_t kAlign = 64;
  std::size_t bytes_ = 0;
  void* memory_ = nullptr;
};

}  // namespace lstmserve
