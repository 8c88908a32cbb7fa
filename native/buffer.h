// Memory for states, weights and tables: zeroed, aligned to cache lines.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

namespace lstmserve {

// A large buffer is mapped for itself: it is made at once, takes memory only as it is written to, and all of that goes
// back to the system with it.
class Buffer {
 public:
  Buffer() = default;
  // Throws std::bad_alloc.
  explicit Buffer(std::size_t bytes) : bytes_(bytes) {
    if (!bytes) return;
    if (mapped()) {
      data_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
      if (data_ == MAP_FAILED) throw std::bad_alloc();
    } else {
      data_ = ::operator new(bytes, std::align_val_t{kAlign});
      std::memset(data_, 0, bytes);
    }
  }
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    std::swap(data_, other.data_);
    return *this;
  }
  ~Buffer() {
    if (mapped())
      munmap(data_, bytes_);
    else
      ::operator delete(data_, std::align_val_t{kAlign});
  }

  std::size_t bytes() const { return bytes_; }
  void* at(std::size_t byte) const { return static_cast<char*>(data_) + byte; }
  void* data() const { return data_; }
  float* floats() const { return static_cast<float*>(data_); }

 private:
  static constexpr std::size_t kAlign = 64, kMapped = 1 << 18;

  bool mapped() const { return bytes_ >= kMapped; }

  std::size_t bytes_ = 0;
  void* data_ = nullptr;
};

}  // namespace lstmserve
