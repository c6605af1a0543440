// The driver of narrow windows: tiled attention, a panel and its own tile at a time.
#include "narrow_windows.hpp"

#include "tiled.hpp"

namespace foveate {
namespace {

template <class T>
class Windows : public Forward<T> {
 public:
  using Forward<T>::Forward;

  void run(int64_t task, int64_t) noexcept {
    block_.start_windows(task);
    while (block_.next_window()) {
      pass(false);
      if (this->finish(0) || !block_.panel(0).hidden) continue;
      pass(true);
      this->finish(0);
    }
  }

 private:
  using Forward<T>::block_;

  void pass(bool exact) noexcept {
    this->reset(0);
    if (!block_.open_window()) return;
    this->add_tile(0, exact);
  }
};

}  // namespace

fv_status attention_in_windows(Plan& plan, fv_error* error) noexcept { return run_forward<Windows>(plan, error); }

}  // namespace foveate
