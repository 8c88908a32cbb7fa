// Memory for states, weights and tables: zeroed, aligned to cache lines.
#pragma once

#include <cstddef>
#include <cstring>
#include <new>
#include <utility>

namespace lstmserve {

class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t bytes)
      : bytes_(bytes), data_(bytes ? ::operator new(bytes, std::align_val_t{kAlign}) : nullptr) {
    if (bytes) std::memset(data_, 0, bytes);
  }
  Buffer(Buffer&& other) noexcept
      : bytes_(std::exchange(other.bytes_, 0)), data_(std::exchange(other.data_, nullptr)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    std::swap(data_, other.data_);
    return *this;
  }
  ~Buffer() { ::operator delete(data_, std::align_val_t{kAlign}); }

  std::size_t bytes() const { return bytes_; }
  void* at(std::size_t byte) const { return static_cast<char*>(data_) + byte; }
  void* data() const { return data_; }
  float* floats() const { return static_cast<float*>(data_); }

 private:
  static constexpr std::size_t kAlign = 64;
  std::size_t bytes_ = 0;
  void* data_ = nullptr;
};

}  // namespace lstmserve
