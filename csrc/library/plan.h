// How a call is cut into tasks. It depends on the sizes alone, so that the numbers do not depend on the threads.
#pragma once

#include <cstdint>

#include "kernels/block.h"

namespace batchnorm {

// The runs [outer, group, middle, channel, inner], as few as possible.
struct Runs {
  int64_t outer, group, middle, channel, inner;
  bool weights_by_group;

  int64_t statistics() const { return group * channel; }
  int64_t count() const { return outer * middle * inner; }
};

// False where a size is negative or their product exceeds 63 bits of bytes.
bool simplify(int64_t outer, int64_t group, int64_t middle, int64_t channel, int64_t inner, bool weighted,
              bool weights_by_group, Runs* runs);

// Half-open ranges of one group.
struct Task {
  int64_t group, outer_from, outer_to, middle_from, middle_to, channel_from, channel_to, inner_from, inner_to;
};

struct Located {
  Block block;
  int64_t offset, weight_offset;
};

Located locate(const Runs& runs, const Task& task);

// Tasks are (group, part of the reduced runs, tile of channels), channels fastest.
//
// Either a task holds all numbers of its statistics (`parts` is 1): then whatever follows the statistics follows at
// once, while the numbers are in the cache. Or several parts make one statistic.
struct Plan {
  Runs runs;
  int64_t tile, tiles;
  int64_t outer_parts, middle_parts, inner_parts;
  // Groups taken up together; the next ones wait until these are done, so that a second pass finds them in the cache.
  int64_t groups_at_once;
  bool small;  // too little work to wake anybody
  bool ahead;  // a task is small enough for the next one to be fetched during its second pass

  int64_t parts() const { return outer_parts * middle_parts * inner_parts; }
  int64_t tasks_in_group() const { return parts() * tiles; }
  Task task(int64_t group, int64_t index) const;
};

// For passes that sum, and may have another pass behind them. `bytes` is that of one position in all arrays read.
Plan plan_sums(const Runs& runs, int64_t bytes);

// For a pass that sums with weights, and has none behind it. Its tiles depend on the threads too: a statistic of one
// task is the same whichever others the task has.
Plan plan_weighted(const Runs& runs, int64_t bytes, int threads);

// For passes where every number stands alone.
Plan plan_each(const Runs& runs, int64_t bytes);

// Whether an output of that many bytes is better written past the caches.
bool exceeds_caches(int64_t bytes);

}  // namespace batchnorm
