#include "library/pool.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#include "include/batchnorm_kernels.h"

namespace batchnorm {
namespace {

// Rounds of waiting in place, some tens of microseconds, before a thread sleeps.
constexpr int kSpins = 2000;

inline void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// More threads than this begin with what others have left.
constexpr int kMostShares = 64;

// One thread's tasks: those from `from` to `to`, of which `taken` are taken. On a line of its own, since its owner
// writes it all the time.
struct alignas(64) Share {
  std::atomic<int64_t> taken{0};
  std::atomic<bool> owned{false};
  int64_t from = 0, to = 0;
};

// The share that this thread had last.
thread_local int usual_share = 0;

class Job {
 public:
  Job(int threads, int64_t tasks, Direction direction, void (*work)(void*, int64_t), void* context)
      : work_(work), context_(context), direction_(direction), shares_(threads < kMostShares ? threads : kMostShares) {
    const int64_t each = tasks / shares_, rest = tasks % shares_;
    for (int s = 0; s < shares_; ++s) {
      share_[s].from = s == 0 ? 0 : share_[s - 1].to;
      share_[s].to = share_[s].from + each + (s < rest ? 1 : 0);
    }
  }

  // The calling thread's part of the work, and every helper's.
  void take_tasks() {
    const int own = find_share();
    for (int s = 0; s < shares_; ++s) take_from(&share_[(own + s) % shares_]);
  }

  std::atomic<int> helping{0};

 private:
  int find_share() {
    for (int s = 0; s < shares_; ++s) {
      const int share = (usual_share + s) % shares_;
      if (!share_[share].owned.exchange(true, std::memory_order_relaxed)) return usual_share = share;
    }
    return 0;
  }

  void take_from(Share* share) {
    const int64_t many = share->to - share->from;
    for (int64_t k; (k = share->taken.fetch_add(1, std::memory_order_relaxed)) < many;) {
      work_(context_, direction_ == Direction::kForwards ? share->from + k : share->to - 1 - k);
    }
  }

  void (*const work_)(void*, int64_t);
  void* const context_;
  const Direction direction_;
  const int shares_;
  Share share_[kMostShares];
};

class Pool {
 public:
  // False where another call has the helpers.
  bool run(int threads, Job& job) {
    std::unique_lock<std::mutex> mine(busy_, std::try_to_lock);
    if (!mine.owns_lock()) return false;
    const int helpers = start(threads - 1);
    if (helpers == 0) return false;
    offer(&job, helpers);
    job.take_tasks();
    withdraw(job);
    return true;
  }

 private:
  // Have `wanted` helpers, or as many as the system grants.
  int start(int wanted) {
    try {
      for (; started_ < wanted; ++started_) std::thread(&Pool::help, this).detach();
    } catch (const std::system_error&) {
    }
    return started_ < wanted ? started_ : wanted;
  }

  void offer(Job* job, int helpers) {
    {
      std::lock_guard<std::mutex> lock(state_);
      job_ = job;
      places_ = helpers;
      offers_.fetch_add(1, std::memory_order_relaxed);
    }
    // Those that still spin see the offer by themselves; notifying nobody costs nothing.
    if (helpers > 1) {
      offered_.notify_all();
    } else {
      offered_.notify_one();
    }
  }

  // No helper joins from now on; wait for those that have.
  void withdraw(Job& job) {
    {
      std::lock_guard<std::mutex> lock(state_);
      job_ = nullptr;
    }
    for (int spin = 0; spin < kSpins && job.helping.load(std::memory_order_acquire) > 0; ++spin) pause_briefly();
    std::unique_lock<std::mutex> lock(state_);
    left_.wait(lock, [&] { return job.helping.load(std::memory_order_acquire) == 0; });
  }

  void help() {
    uint64_t seen = 0;
    for (;;) {
      for (int spin = 0; spin < kSpins && offers_.load(std::memory_order_relaxed) == seen; ++spin) pause_briefly();
      std::unique_lock<std::mutex> lock(state_);
      offered_.wait(lock, [&] { return offers_.load(std::memory_order_relaxed) != seen; });
      seen = offers_.load(std::memory_order_relaxed);
      if (job_ == nullptr || places_ == 0) continue;
      --places_;
      Job* job = job_;
      job->helping.fetch_add(1, std::memory_order_relaxed);
      lock.unlock();
      job->take_tasks();
      lock.lock();
      // Under the lock, so that the job outlives this: whoever waits for zero needs the lock to go on.
      if (job->helping.fetch_sub(1, std::memory_order_release) == 1) left_.notify_one();
    }
  }

  std::mutex busy_;   // held by the call that has the helpers
  std::mutex state_;  // guards job_ and places_
  std::condition_variable offered_, left_;
  std::atomic<uint64_t> offers_{0};
  Job* job_ = nullptr;
  int places_ = 0;
  int started_ = 0;
};

std::atomic<Pool*> the_pool{nullptr};
std::atomic<bn_team> the_team{nullptr};
thread_local bool on_team = false;

// A child of fork has none of its parent's threads, and starts its own.
void forget_after_fork() {
  static const bool watched = [] {
#if defined(__unix__) || defined(__APPLE__)
    pthread_atfork(nullptr, nullptr, [] {
      the_pool.store(nullptr);
      the_team.store(nullptr);
    });
#endif
    return true;
  }();
  (void)watched;
}

// Never destroyed: helpers may outlive the program's static objects, and in a child of fork nobody holds its locks.
Pool& pool() {
  forget_after_fork();
  Pool* current = the_pool.load(std::memory_order_acquire);
  if (current != nullptr) return *current;
  Pool* made = new Pool;
  if (the_pool.compare_exchange_strong(current, made, std::memory_order_acq_rel)) return *made;
  delete made;
  return *current;
}

}  // namespace

void run_tasks(int threads, int64_t tasks, Direction direction, void (*work)(void*, int64_t), void* context) {
  if (threads > tasks) threads = int(tasks);
  if (threads <= 1) {
    // No shares: the calling thread keeps the one it had.
    for (int64_t k = 0; k < tasks; ++k) work(context, direction == Direction::kForwards ? k : tasks - 1 - k);
    return;
  }
  Job job(threads, tasks, direction, work, context);
  const bn_team team = on_team ? the_team.load(std::memory_order_acquire) : nullptr;
  if (team != nullptr) {
    team([](void* data) { static_cast<Job*>(data)->take_tasks(); }, &job, unsigned(threads), 0);
  } else if (!pool().run(threads, job)) {
    job.take_tasks();
  }
}

TeamScope::TeamScope(bool asked) { on_team = asked; }
TeamScope::~TeamScope() { on_team = false; }

}  // namespace batchnorm

void bn_use_team(bn_team team) {
  batchnorm::forget_after_fork();
  batchnorm::the_team.store(team, std::memory_order_release);
}
