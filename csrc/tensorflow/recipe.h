// What an op's attributes say, and what they make of the shape that a run brings.
//
// A graph may be built before any size is known. So an op holds no sizes but how to find them: which axes of the input
// make up each of the five runs [outer, group, middle, channel, inner], once the batch axis is divided into ghosts.
#pragma once

#include <cstdint>
#include <string>

#include "include/batchnorm_kernels.h"
#include "tensorflow/c_api.h"

namespace batchnorm::tf {

enum GhostOrder : int64_t { kNoGhosts = 0, kContiguous = 1, kInterleaved = 2 };

struct Recipe {
  TF_DataType element = TF_FLOAT;  // of x, y, dy and dx
  TF_DataType statistic = TF_FLOAT;
  int type = BN_FLOAT32;
  int64_t bounds[6] = {};  // run k is axes bounds[k] to bounds[k + 1]
  int64_t ghost_order = kNoGhosts;
  int64_t ghost_size = 0;  // examples in a ghost
  bool weighted = false;
  bool weights_by_group = false;
  bool scaled = false;     // there is a gamma
  bool centered = false;   // there is a beta
  bool of_sample = false;  // the averages take N / (N - 1) times the variance
  double epsilon = 0;
  int activation = BN_IDENTITY;
  double slope = 0;       // of the activation, below zero
  bool residual = false;  // there is a residual
  bool shifted = false;   // there is what computes again what the activation was applied to
  bool keeps = false;     // the gradient of the residual is an output
};

struct Sizes {
  bn_sizes runs;
  int64_t ghosts;
  int64_t channels;

  int64_t statistics() const { return ghosts * channels; }
};

// Read the attributes of an op; those it lacks keep their defaults.
void read_recipe(TF_OpKernelConstruction* construction, Recipe* recipe, TF_Status* status);

// Finds the sizes for an input of this shape. Returns what is wrong, or an empty string.
std::string find_sizes(const Recipe& recipe, const TF_Tensor* x, Sizes* sizes);

}  // namespace batchnorm::tf
