// Threads that help the calling one.
#pragma once

#include <cstdint>

namespace batchnorm {

enum class Direction { kForwards, kBackwards };

// Call work(context, task) for every task below `tasks`, on at most `threads` threads, the calling one among them.
//
// Each thread has a run of consecutive tasks, in this order or the other, and whoever is done takes over what others
// have left; all are done on return. A call with as many tasks as the one before gives each thread those it had, so
// that it finds in its own cache what it just read. Where the helpers are busy with another call, or slow to wake, the
// calling thread does the work itself; it never waits for a helper to start. Helpers are started when first needed,
// spin briefly after a call in case another follows, and then sleep. A child process made by fork starts its own.
//
// Between `TeamScope(true)` and its end the helpers are the threads of the team that was named, if one was.
void run_tasks(int threads, int64_t tasks, Direction direction, void (*work)(void* context, int64_t task), void* context);

class TeamScope {
 public:
  explicit TeamScope(bool on_team);
  ~TeamScope();
  TeamScope(const TeamScope&) = delete;
  TeamScope& operator=(const TeamScope&) = delete;
};

template <class Work>
void for_each_task(int threads, int64_t tasks, Direction direction, Work work) {
  run_tasks(
      threads, tasks, direction, [](void* context, int64_t task) { (*static_cast<Work*>(context))(task); }, &work);
}

}  // namespace batchnorm
