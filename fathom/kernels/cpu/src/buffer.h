// Memory for weights, cache and scratch: aligned, zeroed, and in huge pages where the kernel grants them.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define FATHOM_GUARDED_HEAP
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FATHOM_GUARDED_HEAP
#endif
#endif

namespace fathom {

// Pages of the system come zeroed and are only taken when first touched, so a large cache costs nothing until it is used.
// Under the address sanitizer memory comes from its heap, which sees every byte read or written beyond the end.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes) : bytes_(bytes) {
    if (bytes) data_ = allocate(bytes);
  }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer() {
    if (data_) release(data_, bytes_);
  }
  template <class T>
  T* as() const { return static_cast<T*>(data_); }
  size_t bytes() const { return bytes_; }
  // Contents are lost when it grows.
  void reserve(size_t bytes) {
    if (bytes > bytes_) *this = Buffer(bytes + bytes / 4);
  }

 private:
#ifdef FATHOM_GUARDED_HEAP
  static void* allocate(size_t bytes) {
    void* memory = std::calloc(bytes, 1);
    if (!memory) throw std::bad_alloc();
    return memory;
  }
  static void release(void* memory, size_t) { std::free(memory); }
#else
  static void* allocate(size_t bytes) {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (bytes >= (size_t(1) << 22)) madvise(memory, bytes, MADV_HUGEPAGE);  // streaming weights is bound by the TLB otherwise
#endif
    return memory;
  }
  static void release(void* memory, size_t bytes) { munmap(memory, bytes); }
#endif
  void swap(Buffer& other) {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Memory that is only ever added to: weights of all sizes side by side, so that small matrices get huge pages too.
class Arena {
 public:
  // Zeroed, aligned to a cache line, valid as long as the arena.
  uint8_t* take(size_t bytes) {
    bytes = (bytes + 63) / 64 * 64;
    if (bytes > left_) {
      left_ = bytes > kChunk ? bytes : kChunk;
      chunks_.emplace_back(left_);
      next_ = chunks_.back().as<uint8_t>();
    }
    uint8_t* taken = next_;
    next_ += bytes, left_ -= bytes;
    return taken;
  }

 private:
#ifdef FATHOM_GUARDED_HEAP
  static constexpr size_t kChunk = 0;  // each piece between guards of its own
#else
  static constexpr size_t kChunk = size_t(32) << 20;
#endif
  std::vector<Buffer> chunks_;
  uint8_t* next_ = nullptr;
  size_t left_ = 0;
};

}  // namespace fathom
