// The part of XLA's binary interface for foreign functions that a handler on the CPU meets: where XLA puts operands,
// results and attributes, and what a handler gives back. jaxlib 0.5 to 0.10 have this layout (versions 0.1 to 0.3 of the
// interface); a test holds each field to the header that an installed jaxlib brings, so that nothing is built with that.
#pragma once
#include <cstddef>
#include <cstdint>

namespace foveate::xla {

// Every structure begins with its size in bytes as XLA knows it, and most with a list of extensions after that.
struct Extension {
  size_t size;
  int32_t kind;
  Extension* next;
};
constexpr int32_t kMetadata = 1;  // the kind of extension which asks what a handler is

struct Version {
  size_t size;
  Extension* extensions;
  int major, minor;
};

enum Dtype : int32_t {
  kBool = 1,
  kInt32 = 4,
  kInt64 = 5,
  kUint32 = 8,
  kFloat16 = 10,
  kFloat32 = 11,
  kFloat64 = 12,
  kBfloat16 = 16
};

// A dense array in C order.
struct Buffer {
  size_t size;
  Extension* extensions;
  Dtype dtype;
  void* data;
  int64_t rank;
  int64_t* extents;
};

// Of operands and results, all of which are buffers: there is no other type yet.
struct Buffers {
  size_t size;
  Extension* extensions;
  int64_t count;
  int32_t* types;
  Buffer** items;
};
constexpr int32_t kBufferType = 1;

struct Text {
  const char* data;
  size_t length;
};

// An attribute that is a vector of numbers.
struct Numbers {
  Dtype dtype;
  size_t count;
  const void* data;
};

// In the order of their names.
struct Attributes {
  size_t size;
  Extension* extensions;
  int64_t count;
  int32_t* types;
  Text** names;
  void** items;
};
constexpr int32_t kArrayType = 1;

struct Error;  // XLA's own

enum Code : int32_t { kCancelled = 1, kInvalidArgument = 3, kResourceExhausted = 8, kInternal = 13 };

struct NewError {
  size_t size;
  Extension* extensions;
  const char* message;
  Code code;
};

struct OldError {
  size_t size;
  Extension* extensions;
  Error* error;
};

struct Context;  // XLA's own

struct ThreadCount {
  size_t size;
  Extension* extensions;
  Context* context;
  int64_t* count;
};

// The functions of XLA; those that are not called here are places in a row.
struct Api {
  size_t size;
  Extension* extensions;
  Version version;
  const void* internal;
  Error* (*create_error)(NewError*);
  void (*message_of_error)();
  void (*destroy_error)(OldError*);
  void (*between[9])();
  Error* (*count_threads)(ThreadCount*);
};

enum Stage : int32_t { kInstantiate = 0, kPrepare = 1, kInitialize = 2, kExecute = 3 };

struct Frame {
  size_t size;
  Extension* extensions;
  const Api* api;
  Context* context;
  Stage stage;
  Buffers operands;
  Buffers results;
  Attributes attributes;
};

struct Metadata {
  size_t size;
  Version version;
  uint32_t traits;
};

struct MetadataExtension {
  Extension base;
  Metadata* metadata;
};

}  // namespace foveate::xla
