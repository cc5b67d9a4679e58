// Passes over all tasks of a plan.
#pragma once

#include <algorithm>
#include <vector>

#include "library/plan.h"
#include "library/pool.h"

namespace batchnorm {

// Sum, then finish the statistics, then go over the numbers again.
//
//   sum(located, task, weight, first, second)   two sums of each channel of the task's, and its weight
//   join(channels, weight, first, second, other weight, other first, other second)
//   finish(group, channel from, channel to, weight, first, second)
//   follow(located, task)
template <class Sum, class Join, class Finish, class Follow>
void sum_and_follow(const Plan& plan, int threads, Sum sum, Join join, Finish finish, Follow follow) {
  const Runs& n = plan.runs;
  const int64_t parts = plan.parts(), many = plan.tasks_in_group();
  if (n.statistics() == 0) return;
  if (plan.small) threads = 1;
  const int64_t rows = parts * plan.groups_at_once;
  std::vector<double> first(size_t(rows * n.channel)), second(size_t(rows * n.channel));
  std::vector<Weight> weights(size_t(rows * plan.tiles));
  for (int64_t start = 0; start < n.group; start += plan.groups_at_once) {
    const int64_t groups = std::min(plan.groups_at_once, n.group - start);
    for_each_task(threads, groups * many, [&](int64_t index) {
      const int64_t group = index / many, part = index % many / plan.tiles, row = group * parts + part;
      const Task task = plan.task(start + group, index % many);
      double *a = &first[size_t(row * n.channel + task.channel_from)], *b = a - first.data() + second.data();
      Weight* weight = &weights[size_t(row * plan.tiles + task.channel_from / plan.tile)];
      const Located located = locate(n, task);
      sum(located, task, weight, a, b);
      if (parts > 1) return;
      finish(task.group, task.channel_from, task.channel_to, *weight, a, b);
      follow(located, task);
    });
    if (parts == 1) continue;
    // Channels in strips, since many parts of many channels are work enough to share.
    constexpr int64_t kStrip = 128;
    const int64_t strips = (plan.tile + kStrip - 1) / kStrip, in_group = plan.tiles * strips;
    const int join_threads = parts * n.channel * groups < 4096 ? 1 : threads;
    for_each_task(join_threads, groups * in_group, [&](int64_t index) {
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
      finish(start + group, from, to, weight, a, b);
    });
    // Backwards: what was read last is still in the cache.
    for_each_task(threads, groups * many, [&](int64_t index) {
      index = groups * many - 1 - index;
      const Task task = plan.task(start + index / many, index % many);
      follow(locate(n, task), task);
    });
  }
}

template <class Follow>
void each(const Plan& plan, int threads, Follow follow) {
  const int64_t many = plan.tasks_in_group();
  for_each_task(plan.small ? 1 : threads, plan.runs.group * many, [&](int64_t index) {
    const Task task = plan.task(index / many, index % many);
    follow(locate(plan.runs, task), task);
  });
}

}  // namespace batchnorm
