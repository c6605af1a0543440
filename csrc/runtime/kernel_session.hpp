// While a thread uses kernels, for one task: the registers that they need are set up, and subnormal numbers count as 0.
// In the middle of a task other code may run, such as a signal handler, which may call the kernels itself: for it the
// thread is put back as it was.
#pragma once
#include "kernels/table.hpp"
#include "subnormals.hpp"

namespace foveate {

class KernelSession {
 public:
  explicit KernelSession(const Arithmetic& arithmetic) noexcept : arithmetic_(arithmetic), outer_(present) {
    present = this;
    if (arithmetic_.enter) arithmetic_.enter();
  }
  ~KernelSession() {
    if (arithmetic_.leave) arithmetic_.leave();
    present = outer_;
  }
  KernelSession(const KernelSession&) = delete;
  KernelSession& operator=(const KernelSession&) = delete;

 private:
  friend class KernelPause;
  static inline thread_local const KernelSession* present = nullptr;
  const Arithmetic& arithmetic_;
  const KernelSession* outer_;
  SubnormalsAsZero subnormals_;
};

// While this stands, between two kernels, the thread is as it was before the session.
class KernelPause {
 public:
  KernelPause() noexcept : use_(KernelSession::present) {
    if (use_ && use_->arithmetic_.leave) use_->arithmetic_.leave();
    KernelSession::present = nullptr;
  }
  ~KernelPause() {
    KernelSession::present = use_;
    if (use_ && use_->arithmetic_.enter) use_->arithmetic_.enter();
  }
  KernelPause(const KernelPause&) = delete;
  KernelPause& operator=(const KernelPause&) = delete;

 private:
  const KernelSession* use_;
  SubnormalsAsTheyAre subnormals_;
};

}  // namespace foveate
