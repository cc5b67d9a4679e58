#include "library/plan.h"

#include <algorithm>
#include <numeric>

namespace batchnorm {
namespace {

// Sizes in bytes, of all arrays read. They suit cores with some hundred KiB of their own cache.
constexpr int64_t kSmall = 128 << 10;      // one thread is done before another wakes
constexpr int64_t kWhole = 1 << 20;        // read again from the cache if all of it was just read
constexpr int64_t kTile = 256 << 10;       // a tile of channels, where there is a choice
constexpr int64_t kLargestTile = 8 << 20;  // where there is none
constexpr int64_t kLinesTile = 4 << 20;    // where with fewer channels two tiles would write to one line of memory
constexpr int64_t kAhead = 2 << 20;        // more of what comes next would drive out what is at hand
constexpr int64_t kPart = 512 << 10;
constexpr int64_t kMostParts = 64;
constexpr int64_t kRun = 512;       // shorter runs of consecutive bytes are slow to fetch
constexpr int64_t kManyRows = 512;  // so many rows at a stride collide in a cache
constexpr int64_t kAtOnce = 8 << 20;
#if defined(BATCHNORM_STREAMED)  // tests write past the caches what is smaller
constexpr int64_t kStreamed = BATCHNORM_STREAMED;
#else
constexpr int64_t kStreamed = 4 << 20;  // from here on it pays even where the output is read again at once
#endif

int64_t up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Channels that are whole lines of memory.
int64_t channels_in_lines(const Runs& n) { return 16 / std::gcd<int64_t>(16, n.inner); }

// About so many channels in a tile, so that tiles are whole lines where that takes few more of them.
int64_t round_tile(const Runs& n, int64_t channels) {
  const int64_t unit = channels_in_lines(n);
  if (channels >= unit * 5 / 8) channels = std::max(unit, (channels + unit / 2) / unit * unit);
  return std::clamp<int64_t>(channels, 1, std::max<int64_t>(n.channel, 1));
}

void cut_rows(Plan* plan, int64_t parts) {
  const Runs& n = plan->runs;
  plan->outer_parts = std::clamp<int64_t>(std::min(parts, n.outer), 1, parts);
  parts = up(parts, plan->outer_parts);
  plan->middle_parts = std::clamp<int64_t>(std::min(parts, n.middle), 1, parts);
  parts = up(parts, plan->middle_parts);
  // Inside a run only where nothing else lies beside it.
  if (n.channel == 1 && n.middle == 1) plan->inner_parts = std::clamp<int64_t>(std::min(parts, n.inner / 4096), 1, parts);
}

Plan whole(const Runs& n, int64_t bytes) {
  const bool small = n.statistics() * n.count() * bytes <= kSmall;
  return {n, std::max<int64_t>(n.channel, 1), 1, 1, 1, 1, std::max<int64_t>(n.group, 1), small, false};
}

void set_tile(Plan* plan, int64_t tile) {
  plan->tile = tile;
  plan->tiles = up(plan->runs.channel, tile);
}

}  // namespace

bool simplify(int64_t outer, int64_t group, int64_t middle, int64_t channel, int64_t inner, bool weighted,
              bool weights_by_group, Runs* runs) {
  int64_t size = 16;
  bool empty = false;
  for (int64_t each : {outer, group, middle, channel, inner}) {
    if (each < 0) return false;
    if (each == 0) empty = true;
    if (__builtin_mul_overflow(size, std::max<int64_t>(each, 1), &size)) return false;
  }
  *runs = {outer, group, middle, channel, inner, weighted && weights_by_group};
  if (empty) return true;
  if (middle == 1 && !(runs->weights_by_group && group > 1)) {
    runs->channel *= group;
    runs->group = 1;
  }
  if (runs->group == 1) {
    runs->middle *= outer;
    runs->outer = 1;
    runs->weights_by_group = false;
  }
  if (runs->channel == 1) {
    runs->inner *= runs->middle;
    runs->middle = 1;
  }
  return true;
}

Located locate(const Runs& n, const Task& task) {
  Located found;
  const int64_t row = n.channel * n.inner, weight_groups = n.weights_by_group ? n.group : 1;
  found.block.segments = task.outer_to - task.outer_from;
  found.block.segment_stride = n.group * n.middle * row;
  found.block.rows = task.middle_to - task.middle_from;
  found.block.row_stride = row;
  found.block.channels = task.channel_to - task.channel_from;
  found.block.inner = task.inner_to - task.inner_from;
  found.block.weight_stride = weight_groups * n.middle * n.inner;
  found.offset = ((task.outer_from * n.group + task.group) * n.middle + task.middle_from) * row +
                 task.channel_from * n.inner + task.inner_from;
  const int64_t weight_group = n.weights_by_group ? task.group : 0;
  found.weight_offset =
      ((task.outer_from * weight_groups + weight_group) * n.middle + task.middle_from) * n.inner + task.inner_from;
  return found;
}

Task Plan::task(int64_t group, int64_t index) const {
  const auto from = [](int64_t size, int64_t part, int64_t many) {
    // Without the product's overflow.
    return size / many * part + std::min(part, size % many);
  };
  const int64_t channel = index % tiles;
  index /= tiles;
  const int64_t i = index % inner_parts;
  index /= inner_parts;
  const int64_t m = index % middle_parts, o = index / middle_parts;
  return {group,
          from(runs.outer, o, outer_parts),
          from(runs.outer, o + 1, outer_parts),
          from(runs.middle, m, middle_parts),
          from(runs.middle, m + 1, middle_parts),
          channel * tile,
          std::min((channel + 1) * tile, runs.channel),
          from(runs.inner, i, inner_parts),
          from(runs.inner, i + 1, inner_parts)};
}

Plan plan_sums(const Runs& n, int64_t bytes) {
  Plan plan = whole(n, bytes);
  if (plan.small || n.statistics() == 0) return plan;
  const int64_t rows = n.outer * n.middle, channel = n.count() * bytes, group = channel * n.channel;
  const int64_t run = n.inner * bytes, in_lines = std::min(channels_in_lines(n), n.channel);
  int64_t narrowest = round_tile(n, up(kRun, run));
  if (channel * in_lines <= kLinesTile) narrowest = std::max(narrowest, in_lines);
  // Every group by itself, where that leaves something for each of a few threads.
  if (group <= kWhole && n.group >= 8) return plan;
  const bool narrow_works = channel * narrowest <= (rows <= kManyRows || run >= kRun ? kLargestTile : kTile);
  if (narrow_works) {
    const int64_t fitting = round_tile(n, std::max(kTile / channel, narrowest));
    set_tile(&plan, std::max(narrowest, std::min(fitting, round_tile(n, up(n.channel, up(8, n.group))))));
    plan.ahead = channel * plan.tile <= kAhead;
    if (plan.tiles * n.group >= 4) return plan;
    plan.ahead = false;
  }
  set_tile(&plan, std::max<int64_t>(n.channel, 1));
  // As many parts as make no statistic wait for the merging of many.
  const int64_t most = std::clamp<int64_t>(n.count() / 64, 1, kMostParts);
  cut_rows(&plan, std::clamp<int64_t>(group / (group < 8 * kPart ? kSmall : kPart), 1, most));
  if (plan.parts() == 1 && n.channel > 1) set_tile(&plan, round_tile(n, up(n.channel, 8)));
  plan.groups_at_once = std::clamp<int64_t>(kAtOnce / std::max<int64_t>(group, 1), 1, n.group);
  return plan;
}

Plan plan_weighted(const Runs& n, int64_t bytes, int threads) {
  Plan plan = plan_sums(n, bytes);
  if (plan.parts() > 1) return plan;
  // Every task reads the weights: channels share them, as long as each thread has tasks.
  const int64_t most = threads > 1 ? n.statistics() / (2 * threads) : n.statistics();
  set_tile(&plan, std::max(plan.tile, round_tile(n, std::min<int64_t>(most, 8))));
  return plan;
}

Plan plan_each(const Runs& n, int64_t bytes) {
  Plan plan = whole(n, bytes);
  if (plan.small || n.statistics() == 0) return plan;
  const int64_t size = n.count() * n.channel * bytes;
  const int64_t wanted = std::clamp<int64_t>(size / (kPart / 2), 1, 4 * kMostParts);
  // What is known of short runs is spread over a line first, which many rows should share.
  const bool short_runs = n.inner > 1 && n.inner * bytes < 2 * kRun;
  cut_rows(&plan, short_runs ? std::clamp<int64_t>(n.outer * n.middle / 64, 1, wanted) : wanted);
  if (plan.parts() * n.group < wanted && n.channel > 1) {
    set_tile(&plan, round_tile(n, up(n.channel, up(wanted, plan.parts() * n.group))));
  }
  return plan;
}

bool exceeds_caches(int64_t bytes) { return bytes >= kStreamed; }

}  // namespace batchnorm
