// How the threads of a team share a job.
#include "team.hpp"

#include <thread>

#include "system.hpp"

namespace foveate {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::microseconds spin_period{200};
constexpr std::chrono::microseconds sleep_period{100};

thread_local char mine;  // its address says which thread this is

}  // namespace

Team::Team(Job& job) noexcept : job_(job), leader_(&mine) {}

void Team::work(void* context) noexcept {
  Team& team = *static_cast<Team*>(context);
  if (team.leader_ == &mine) {
    team.lead();
  } else {
    team.working_.fetch_add(1);
    team.job_.work(1 + team.helpers_.fetch_add(1, std::memory_order_relaxed));
    team.working_.fetch_sub(1);
  }
}

void Team::lead() noexcept {
  job_.work(0);
  for (const auto end = Clock::now() + spin_period; working_.load(std::memory_order_relaxed) > 0;) {
    if (Clock::now() < end) {
      system::pause();
    } else {
      std::this_thread::sleep_for(sleep_period);
      job_.ask();
    }
  }
}

}  // namespace foveate
