// A thread that uses the kernels of a family, for one task: registers that have to be set up are, and subnormal numbers
// count as 0. In the middle of a task code of others may run, a signal handler's, which may call the kernels itself: it
// finds the thread as it was.
#pragma once
#include "kernels/table.hpp"
#include "subnormals.hpp"

namespace foveate {

class InUse {
 public:
  explicit InUse(const Family& family) noexcept : family_(family), outer_(present) {
    present = this;
    if (family_.enter) family_.enter();
  }
  ~InUse() {
    if (family_.leave) family_.leave();
    present = outer_;
  }
  InUse(const InUse&) = delete;
  InUse& operator=(const InUse&) = delete;

 private:
  friend class OutOfUse;
  static inline thread_local const InUse* present = nullptr;
  const Family& family_;
  const InUse* outer_;
  SubnormalsAsZero subnormals_;
};

// While this stands, between two kernels, the thread uses none.
class OutOfUse {
 public:
  OutOfUse() noexcept : use_(InUse::present) {
    if (use_ && use_->family_.leave) use_->family_.leave();
    InUse::present = nullptr;
  }
  ~OutOfUse() {
    InUse::present = use_;
    if (use_ && use_->family_.enter) use_->family_.enter();
  }
  OutOfUse(const OutOfUse&) = delete;
  OutOfUse& operator=(const OutOfUse&) = delete;

 private:
  const InUse* use_;
  SubnormalsAsTheyAre subnormals_;
};

}  // namespace foveate
