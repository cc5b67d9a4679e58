// Threads that help the calling one.
#pragma once

#include <cstdint>

namespace batchnorm {

// Call work(context, task) for every task below `tasks`, on at most `threads` threads, the calling one among them.
//
// Tasks are taken in order, each by whoever is free, and all are done on return. Where the helpers are busy with
// another call, or slow to wake, the calling thread does the work itself; it never waits for a helper to start.
// Helpers are started when first needed, spin briefly after a call in case another follows, and then sleep. A child
// process made by fork starts its own.
//
// Between `TeamScope(true)` and its end the helpers are the threads of the team that was named, if one was.
void run_tasks(int threads, int64_t tasks, void (*work)(void* context, int64_t task), void* context);

class TeamScope {
 public:
  explicit TeamScope(bool on_team);
  ~TeamScope();
  TeamScope(const TeamScope&) = delete;
  TeamScope& operator=(const TeamScope&) = delete;
};

template <class Work>
void for_each_task(int threads, int64_t tasks, Work work) {
  if (threads <= 1 || tasks <= 1) {
    for (int64_t task = 0; task < tasks; ++task) work(task);
    return;
  }
  run_tasks(
      threads, tasks, [](void* context, int64_t task) { (*static_cast<Work*>(context))(task); }, &work);
}

}  // namespace batchnorm
