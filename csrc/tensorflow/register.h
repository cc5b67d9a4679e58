// How an op is registered with TensorFlow: its inputs, outputs and attributes, its shapes and its kernels.
#pragma once

#include <initializer_list>

#include "tensorflow/call.h"

namespace batchnorm::tf {

// Shapes. A C shape function may ask for the shapes of an op's inputs but not for its attributes, so the sizes of
// statistics are left open; whoever builds a graph knows them and sets them. But TensorFlow's optimizer learns shapes
// from these functions alone, and if it knows the shape of statistics, it leaves out what is zero anyway.
//
// An output has the shape of x, [ghosts, channels], [channels] or [3, channels]. kOptionalLarge is a list of one array
// like x or none, which comes last.
enum Kind { kLarge, kStatistic, kPerChannel, kAverages, kOptionalLarge };

void set_shape(TF_ShapeInferenceContext* context, int output, Kind kind, int input_of_x, TF_Status* status);

template <int input_of_x, Kind... kinds>
void set_shapes(TF_ShapeInferenceContext* context, TF_Status* status) {
  int output = 0;
  for (Kind kind : {kinds...}) {
    set_shape(context, output++, kind, input_of_x, status);
    if (TF_GetCode(status) != TF_OK) return;
  }
}

using List = std::initializer_list<const char*>;
using Compute = void (*)(void* recipe, TF_OpKernelContext*);
using Shapes = void (*)(TF_ShapeInferenceContext*, TF_Status*);

void add_kernels(const char* name, Compute compute, List inputs, List outputs, List attributes, Shapes shapes);

template <void (*body)(Call&)>
void compute(void* recipe, TF_OpKernelContext* context) {
  Call call(*static_cast<const Recipe*>(recipe), context);
  body(call);
}

// Register an op whose runs are those of `body`. Every op has the attributes T, U, bounds, ghost_order and ghost_size.
template <void (*body)(Call&)>
void add_op(const char* name, List inputs, List outputs, List attributes, Shapes shapes) {
  add_kernels(name, compute<body>, inputs, outputs, attributes, shapes);
}

// Graphs that were saved while training hold nodes of these definitions. So whatever is added to one needs a default,
// and comes last.
constexpr const char* kWeighted = "weight_types: list({float, double}) >= 0";
constexpr const char* kByGroup = "weights_by_group: int = 0";
// Attributes have no wider float than 32 bits.
constexpr const char* kEpsilon = "epsilon_bits: int";
constexpr const char* kGamma = "gamma_types: list({float, double}) >= 0";
constexpr const char* kBeta = "beta_types: list({float, double}) >= 0";
// One of bn_activation.
constexpr const char* kActivation = "activation: int = 0";
constexpr const char* kSlope = "slope_bits: int = 0";
// How many there are of an optional input or output of type T or U: one or none.
constexpr const char* kResidual = "residuals: int >= 0 = 0";
constexpr const char* kShift = "shifts: int >= 0 = 0";
constexpr const char* kPulled = "keeps: int >= 0 = 0";

}  // namespace batchnorm::tf
