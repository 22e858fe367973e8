// The threads that work on one problem together: all of a parallel region, or one alone.
#pragma once
#include "cpu/schedule.h"

namespace sslkern::cpu::SSLKERN_ISA {

class Team {
 public:
  // `ticket` is shared by the team, and 0 when it is made.
  Team(int thread, int threads, std::int64_t* ticket)
      : thread_(thread), threads_(threads), ticket_(ticket) {}

  bool leads() const { return thread_ == 0; }

  // f(i) for every i < count once, by whichever thread is free. All of the team must call it, and
  // wait() before the next one.
  template <class F>
  void each(std::int64_t count, const F& f) {
    for (std::int64_t i; (i = next_ticket(ticket_) - drawn_) < count;) f(i);
    drawn_ += count + threads_;  // every thread has drawn one more than there was for it
  }

  void wait() const {
    if (threads_ == 1) return;
#pragma omp barrier
  }

 private:
  int thread_, threads_;
  std::int64_t* ticket_;
  std::int64_t drawn_ = 0;
};

// Teams that for_each_problem makes.
inline int team_count(std::int64_t problems, int threads) {
  return problems >= threads ? threads : 1;
}

// solve(problem, team, number of the team) for each of them. One thread each while there are enough
// of them, so that a small problem stays in the cache of one core; else all threads on one after
// the other.
template <class Solve>
void for_each_problem(std::int64_t problems, int threads, const Solve& solve) {
  std::int64_t shared = 0;
  const bool alone = team_count(problems, threads) == threads;
#pragma omp parallel num_threads(threads)
  {
    std::int64_t own = 0;
    const int thread = thread_number();
    Team team = alone ? Team(0, 1, &own) : Team(thread, thread_count(), &shared);
    if (alone) {
#pragma omp for schedule(dynamic)
      for (std::int64_t p = 0; p < problems; ++p) solve(p, team, thread);
    } else {
      for (std::int64_t p = 0; p < problems; ++p) solve(p, team, 0);
    }
  }
}

}  // namespace sslkern::cpu::SSLKERN_ISA
