// Libraries that the process has loaded, whoever did that. All #if of systems that this needs stand in libraries.cpp.
#pragma once
#include <cstdint>

namespace foveate::libraries {

// Another number after a library was loaded, where the system counts that; of Windows the names are asked for again.
uint64_t changes(const char* const* names, int count) noexcept;

// Calls see(context, path) for each library whose file name begins with one of these; on Windows, for those of exactly
// these names that end in .dll. Nothing may be loaded meanwhile.
void each(const char* const* names, int count, void (*see)(void* context, const char* path), void* context) noexcept;

// A library that is loaded, which is kept from now on; null: there is none of this path.
void* keep(const char* path) noexcept;
void release(void* library) noexcept;  // ends that

// The address of a function in a library, or in one that it needs; null: there is none.
void* symbol(void* library, const char* name) noexcept;

// The path of the library, or program, that has an address.
const char* path_of(const void* address) noexcept;

}  // namespace foveate::libraries
