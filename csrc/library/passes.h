// Passes over all tasks of a plan.
#pragma once

#include <algorithm>
#include <memory>

#include "library/plan.h"
#include "library/pool.h"

namespace batchnorm {

// Numbers whose first values do not matter; null for none.
template <class T>
std::unique_ptr<T[]> room_for(int64_t many) {
  return std::unique_ptr<T[]>(many > 0 ? new T[size_t(many)] : nullptr);
}

// What a task keeps of each channel, on the stack: a helper must not run out of memory.
constexpr int64_t kMostOnStack = 4096;

// Sum, then finish the statistics, then go over the numbers again.
//
//   sum(located, task, weight, first, second)   two sums of each channel of the task's, and its weight
//   join(channels, weight, first, second, other weight, other first, other second)
//   finish(group, channel from, channel to, weight, first, second, kept, kept too)
//   follow(located, task, kept, kept too, ahead)  two numbers of each channel, as `finish` left them
template <class T, class Sum, class Join, class Finish, class Follow>
void sum_and_follow(const Plan& plan, int threads, Sum sum, Join join, Finish finish, Follow follow) {
  const Runs& n = plan.runs;
  const int64_t parts = plan.parts(), many = plan.tasks_in_group();
  if (n.statistics() == 0) return;
  if (plan.small) threads = 1;
  if (parts == 1 && plan.tile <= kMostOnStack) {
    for_each_task(threads, n.group * many, Direction::kForwards, [&](int64_t index) {
      double first[kMostOnStack], second[kMostOnStack];
      T kept[kMostOnStack], kept_too[kMostOnStack];
      Weight weight;
      const Task task = plan.task(index / many, index % many);
      const Located located = locate(n, task);
      sum(located, task, &weight, first, second);
      finish(task.group, task.channel_from, task.channel_to, weight, first, second, kept, kept_too);
      // What this thread will likely do next.
      const int64_t next = index + 1;
      const bool more = plan.ahead && next < n.group * many;
      follow(located, task, kept, kept_too,
             more ? locate(n, plan.task(next / many, next % many)).offset - located.offset : 0);
    });
    return;
  }
  const int64_t rows = parts * plan.groups_at_once;
  const auto first = room_for<double>(rows * n.channel), second = room_for<double>(rows * n.channel);
  const auto kept = room_for<T>(n.statistics()), kept_too = room_for<T>(n.statistics());
  const auto weights = room_for<Weight>(rows * plan.tiles);
  for (int64_t start = 0; start < n.group; start += plan.groups_at_once) {
    const int64_t groups = std::min(plan.groups_at_once, n.group - start);
    for_each_task(threads, groups * many, Direction::kForwards, [&](int64_t index) {
      const int64_t group = index / many, part = index % many / plan.tiles, row = group * parts + part;
      const Task task = plan.task(start + group, index % many);
      const int64_t at = row * n.channel + task.channel_from;
      sum(locate(n, task), task, &weights[size_t(row * plan.tiles + task.channel_from / plan.tile)], &first[size_t(at)],
          &second[size_t(at)]);
    });
    // Channels in strips, since many parts of many channels are work enough to share.
    constexpr int64_t kStrip = 128;
    const int64_t strips = (plan.tile + kStrip - 1) / kStrip, in_group = plan.tiles * strips;
    const int join_threads = parts * n.channel * groups < 4096 ? 1 : threads;
    for_each_task(join_threads, groups * in_group, Direction::kForwards, [&](int64_t index) {
      const int64_t group = index / in_group, tile = index % in_group / strips;
      const int64_t from = tile * plan.tile + index % strips * kStrip;
      const int64_t to = std::min({from + kStrip, (tile + 1) * plan.tile, n.channel});
      if (from >= to) return;
      const int64_t row = group * parts;
      Weight weight = weights[size_t(row * plan.tiles + tile)];
      double *a = &first[size_t(row * n.channel + from)], *b = &second[size_t(row * n.channel + from)];
      for (int64_t part = 1; part < parts; ++part) {
        const int64_t other = part * n.channel;
        join(to - from, &weight, a, b, weights[size_t((row + part) * plan.tiles + tile)], a + other, b + other);
      }
      const int64_t k = (start + group) * n.channel + from;
      finish(start + group, from, to, weight, a, b, &kept[size_t(k)], &kept_too[size_t(k)]);
    });
    // Backwards: what was read last is still in the cache.
    for_each_task(threads, groups * many, Direction::kBackwards, [&](int64_t index) {
      const Task task = plan.task(start + index / many, index % many);
      const int64_t k = task.group * n.channel + task.channel_from;
      follow(locate(n, task), task, &kept[size_t(k)], &kept_too[size_t(k)], 0);
    });
  }
}

template <class Follow>
void each(const Plan& plan, int threads, Follow follow) {
  const int64_t many = plan.tasks_in_group();
  for_each_task(plan.small ? 1 : threads, plan.runs.group * many, Direction::kForwards, [&](int64_t index) {
    const Task task = plan.task(index / many, index % many);
    follow(locate(plan.runs, task), task);
  });
}

}  // namespace batchnorm
