// The part of XLA's foreign function interface that this library uses.
//
// Declared here, so that building needs no jaxlib; whoever registers the functions has XLA in the process. The layout
// of the records and the values are those of xla/ffi/api/c_api.h, version 0.3.
#pragma once

#include <cstddef>
#include <cstdint>

namespace batchnorm::xla {

constexpr int kMajor = 0, kMinor = 3;

enum ErrorCode : int { kInvalidArgument = 3, kResourceExhausted = 8, kInternal = 13 };
enum DataType : int { kS64 = 5, kF16 = 10, kF32 = 11, kF64 = 12, kBF16 = 16 };
enum AttributeType : int { kArray = 1 };
enum ExtensionType : int { kMetadataExtension = 1 };

struct Error;
struct Context;

struct Extension {
  size_t struct_size;
  ExtensionType type;
  Extension* next;
};

struct Version {
  size_t struct_size;
  Extension* extensions;
  int major, minor;
};

struct ErrorArguments {
  size_t struct_size;
  Extension* extensions;
  const char* message;
  ErrorCode code;
};

struct DestroyArguments {
  size_t struct_size;
  Extension* extensions;
  Error* error;
};

struct ThreadsArguments {
  size_t struct_size;
  Extension* extensions;
  Context* context;
  int64_t* number;
};

struct Api {
  size_t struct_size;
  Extension* extensions;
  Version version;
  const void* internal;
  Error* (*create_error)(ErrorArguments*);
  void* get_message;
  void (*destroy_error)(DestroyArguments*);
  // Handler_Register, Stream_Get, Type_Register, ExecutionContext_Get, State_Set, State_Get, DeviceMemory_Allocate,
  // DeviceMemory_Free, ThreadPool_Schedule.
  void* unused[9];
  Error* (*count_threads)(ThreadsArguments*);
};

struct Buffer {
  size_t struct_size;
  Extension* extensions;
  DataType type;
  void* data;
  int64_t rank;
  int64_t* sizes;
};

struct Array {
  DataType type;
  size_t size;
  void* data;
};

// Arguments or results, each a Buffer.
struct Buffers {
  size_t struct_size;
  Extension* extensions;
  int64_t size;
  int* types;
  Buffer** items;
};

struct Attributes {
  size_t struct_size;
  Extension* extensions;
  int64_t size;
  AttributeType* types;
  void* names;
  void** items;
};

struct CallFrame {
  size_t struct_size;
  Extension* extensions;
  const Api* api;
  Context* context;
  int stage;
  Buffers arguments;
  Buffers results;
  Attributes attributes;
};

struct Metadata {
  size_t struct_size;
  Version version;
  uint32_t traits;
};

struct MetadataExtension {
  Extension base;
  Metadata* metadata;
};

}  // namespace batchnorm::xla
