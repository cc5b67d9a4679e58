#include "tensorflow/register.h"

#include <cstdio>

namespace batchnorm::tf {
namespace {

void* create(TF_OpKernelConstruction* construction) {
  TF_Status* status = TF_NewStatus();
  Recipe* recipe = new Recipe;
  read_recipe(construction, recipe, status);
  if (TF_GetCode(status) != TF_OK) {
    TF_OpKernelConstruction_Failure(construction, status);
    delete recipe;
    recipe = nullptr;
  }
  TF_DeleteStatus(status);
  return recipe;
}

void destroy(void* recipe) { delete static_cast<Recipe*>(recipe); }

void report(const char* name, const TF_Status* status) {
  if (TF_GetCode(status) != TF_OK) std::fprintf(stderr, "batchnorm: %s: %s\n", name, TF_Message(status));
}

}  // namespace

void set_shape(TF_ShapeInferenceContext* context, int output, Kind kind, int input_of_x, TF_Status* status) {
  const bool shows_channels = TF_ShapeInferenceContextNumInputs(context) > input_of_x + 1;
  TF_ShapeHandle* shape = TF_NewShapeHandle();
  if (kind == kLarge || kind == kOptionalLarge) {
    TF_ShapeInferenceContextGetInput(context, input_of_x, shape, status);
  } else if (kind == kPerChannel && shows_channels) {
    // The inputs after x, if any, are [channels].
    TF_ShapeInferenceContextGetInput(context, input_of_x + 1, shape, status);
  } else if (kind == kPerChannel) {
    TF_DeleteShapeHandle(shape);
    shape = TF_ShapeInferenceContextVectorFromSize(context, size_t(-1));
  } else if (kind == kAverages) {
    TF_ShapeHandle* three = TF_ShapeInferenceContextVectorFromSize(context, 3);
    TF_ShapeHandle* channels = TF_ShapeInferenceContextVectorFromSize(context, size_t(-1));
    if (shows_channels) TF_ShapeInferenceContextGetInput(context, input_of_x + 1, channels, status);
    if (TF_GetCode(status) == TF_OK) {
      TF_ShapeInferenceContextConcatenateShapes(context, three, channels, shape, status);
    }
    TF_DeleteShapeHandle(three);
    TF_DeleteShapeHandle(channels);
  } else {
    // One unknown size for both would tell the graph's optimizer that there are as many groups as channels.
    TF_ShapeHandle* groups = TF_ShapeInferenceContextVectorFromSize(context, size_t(-1));
    TF_ShapeHandle* channels = TF_ShapeInferenceContextVectorFromSize(context, size_t(-1));
    TF_ShapeInferenceContextConcatenateShapes(context, groups, channels, shape, status);
    TF_DeleteShapeHandle(groups);
    TF_DeleteShapeHandle(channels);
  }
  if (TF_GetCode(status) == TF_OK) TF_ShapeInferenceContextSetOutput(context, output, shape, status);
  // There is no function that says how many outputs there are.
  if (kind == kOptionalLarge) TF_SetStatus(status, TF_OK, "");
  TF_DeleteShapeHandle(shape);
}

void add_kernels(const char* name, Compute compute, List inputs, List outputs, List attributes, Shapes shapes) {
  TF_Status* status = TF_NewStatus();
  TF_OpDefinitionBuilder* op = TF_NewOpDefinitionBuilder(name);
  for (const char* input : inputs) TF_OpDefinitionBuilderAddInput(op, input);
  for (const char* output : outputs) TF_OpDefinitionBuilderAddOutput(op, output);
  TF_OpDefinitionBuilderAddAttr(op, "T: {float, double, bfloat16, half}");
  TF_OpDefinitionBuilderAddAttr(op, "U: {float, double}");
  TF_OpDefinitionBuilderAddAttr(op, "bounds: list(int)");
  TF_OpDefinitionBuilderAddAttr(op, "ghost_order: int = 0");
  TF_OpDefinitionBuilderAddAttr(op, "ghost_size: int = 0");
  for (const char* attribute : attributes) TF_OpDefinitionBuilderAddAttr(op, attribute);
  TF_OpDefinitionBuilderSetShapeInferenceFunction(op, shapes);
  TF_RegisterOpDefinition(op, status);
  report(name, status);
  for (TF_DataType type : {TF_FLOAT, TF_DOUBLE, TF_BFLOAT16, TF_HALF}) {
    TF_KernelBuilder* kernel = TF_NewKernelBuilder(name, "CPU", create, compute, destroy);
    TF_KernelBuilder_TypeConstraint(kernel, "T", type, status);
    TF_KernelBuilder_TypeConstraint(kernel, "U", type == TF_DOUBLE ? TF_DOUBLE : TF_FLOAT, status);
    TF_RegisterKernelBuilder(name, kernel, status);
    report(name, status);
  }
  TF_DeleteStatus(status);
}

}  // namespace batchnorm::tf
