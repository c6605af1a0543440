// A thread that uses the kernels of a family, for one task: registers that have to be set up are, and subnormal numbers
// count as 0. In the middle of a task code of others may run, a signal handler's, which may call the kernels itself: it
// finds the thread as it was.
#pragma once
#include "kernels/table.hpp"
#include "subnormals.hpp"

namespace foveate {

class KernelSession {
 public:
  explicit KernelSession(const Family& family) noexcept : family_(family), outer_(present) {
    present = this;
    if (family_.enter) family_.enter();
  }
  ~KernelSession() {
    if (family_.leave) family_.leave();
    present = outer_;
  }
  KernelSession(const KernelSession&) = delete;
  KernelSession& operator=(const KernelSession&) = delete;

 private:
  friend class KernelPause;
  static inline thread_local const KernelSession* present = nullptr;
  const Family& family_;
  const KernelSession* outer_;
  SubnormalsAsZero subnormals_;
};

// While this stands, between two kernels, the thread uses none.
class KernelPause {
 public:
  KernelPause() noexcept : use_(KernelSession::present) {
    if (use_ && use_->family_.leave) use_->family_.leave();
    KernelSession::present = nullptr;
  }
  ~KernelPause() {
    KernelSession::present = use_;
    if (use_ && use_->family_.enter) use_->family_.enter();
  }
  KernelPause(const KernelPause&) = delete;
  KernelPause& operator=(const KernelPause&) = delete;

 private:
  const KernelSession* use_;
  SubnormalsAsTheyAre subnormals_;
};

}  // namespace foveate
