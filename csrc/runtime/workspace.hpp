// Scratch memory of a call, allocated before its parallel part, so that nothing can fail there. The calling thread
// keeps a buffer of moderate size from call to call: fresh pages cost more than a small call computes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <new>

#include "poison.hpp"
#include "system.hpp"

namespace foveate {

constexpr size_t cache_line = 64;
constexpr size_t round_up(size_t bytes) { return (bytes + cache_line - 1) / cache_line * cache_line; }

// Memory that begins a cache line, on every system; null: there is none.
inline char* allocate_lines(size_t bytes) noexcept {
  return static_cast<char*>(::operator new(bytes, std::align_val_t(cache_line), std::nothrow));
}
inline void free_lines(char* lines) noexcept { ::operator delete(lines, std::align_val_t(cache_line)); }

class Workspace {
 public:
  explicit Workspace(size_t bytes) noexcept : owner_(!kept().busy), bytes_(round_up(bytes)) {
    Kept& mine = kept();
    const size_t wanted = bytes_ + guard;
    if (owner_) {
      if (mine.size < wanted) {
        free_lines(mine.data);
        mine.data = allocate_pages(wanted);
        mine.size = mine.data ? wanted : 0;
      }
      data_ = mine.data;
      mine.busy = mine.data != nullptr;
      owner_ = mine.busy;
    } else {  // a call inside a call: a signal handler ran in the middle of the first
      data_ = allocate_pages(wanted);
    }
    if (poisoned && data_) poison(data_, wanted);
  }
  ~Workspace() {
    insist(!data_ || holds_poison(data_ + bytes_, guard), "nothing is written beyond the scratch memory");
    Kept& mine = kept();
    if (!owner_) {
      free_lines(data_);
    } else {
      mine.busy = false;
      if (mine.size > most_kept) {
        free_lines(mine.data);
        mine.data = nullptr;
        mine.size = 0;
      }
    }
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  char* data() const { return data_; }  // null: it could not be allocated

 private:
  static constexpr size_t most_kept = size_t(4) << 20;

  // What is not kept is new to every call, which is faster with large pages.
  static char* allocate_pages(size_t bytes) noexcept {
    char* const data = allocate_lines(bytes);
    if (data && bytes > most_kept) system::prefer_large_pages(data, bytes);
    return data;
  }
  static constexpr size_t guard = poisoned ? cache_line : 0;
  struct Kept {
    char* data = nullptr;
    size_t size = 0;
    bool busy = false;
    ~Kept() { free_lines(data); }
  };
  static Kept& kept() noexcept {
    static thread_local Kept mine;
    return mine;
  }
  char* data_ = nullptr;
  bool owner_;
  size_t bytes_;
};

// Cuts a buffer into aligned pieces; run once with a null base, it counts the bytes.
class Carver {
 public:
  explicit Carver(char* base) : base_(base) {}
  template <class T = char>
  T* take(int64_t count) {
    char* here = base_ ? base_ + used_ : nullptr;
    used_ += round_up(size_t(count) * sizeof(T));
    return reinterpret_cast<T*>(here);
  }
  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

}  // namespace foveate
