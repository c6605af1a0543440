// The forms of libraries.hpp for each operating system.
#include "libraries.hpp"

#include <cstring>

#include "system.hpp"

#if defined(_WIN32)
#include <windows.h>
#else
#include <dlfcn.h>
#if defined(__APPLE__)
#include <mach-o/dyld.h>
#else
#include <link.h>
#endif
#endif

namespace foveate::libraries {

#if defined(_WIN32)

// Nothing counts what is loaded, and a list of all takes tens of microseconds; a name is found in less than one.
uint64_t changes(const char* const* names, int count) noexcept {
  uint64_t loaded = 0;
  for (int i = 0; i < count; ++i) {
    if (std::strstr(names[i], ".dll") && GetModuleHandleA(names[i])) loaded |= uint64_t(1) << i;
  }
  return loaded;
}

void each(const char* const* names, int count, void (*see)(void*, const char*), void* context) noexcept {
  const uint64_t loaded = changes(names, count);
  for (int i = 0; i < count; ++i) {
    if (loaded >> i & 1) see(context, names[i]);
  }
}

void* keep(const char* path) noexcept {
  HMODULE library = nullptr;
  return GetModuleHandleExA(0, path, &library) ? library : nullptr;
}

void release(void* library) noexcept { FreeLibrary(static_cast<HMODULE>(library)); }

void* symbol(void* library, const char* name) noexcept {
  return reinterpret_cast<void*>(GetProcAddress(static_cast<HMODULE>(library), name));
}

const char* path_of(const void*) noexcept { return "a library"; }

#else

namespace {

struct Search {
  const char* const* names;
  int count;
  void (*see)(void*, const char*);
  void* context;

  void consider(const char* path) const {
    if (!path) return;
    const char* const slash = std::strrchr(path, '/');
    const char* const file = slash ? slash + 1 : path;
    for (int i = 0; i < count; ++i) {
      if (std::strncmp(file, names[i], std::strlen(names[i])) == 0) return see(context, path);
    }
  }
};

}  // namespace

#if defined(__APPLE__)

// The loader of macOS locks its list, too: see below.
uint64_t changes(const char* const*, int) noexcept {
  const system::NoFork whole;
  return _dyld_image_count();
}

void each(const char* const* names, int count, void (*see)(void*, const char*), void* context) noexcept {
  const Search search{names, count, see, context};
  const system::NoFork whole;
  for (uint32_t i = 0; i < _dyld_image_count(); ++i) search.consider(_dyld_get_image_name(i));
}

#else

// glibc locks its list for dl_iterate_phdr, and in a child that is forked meanwhile it stays locked.
uint64_t changes(const char* const*, int) noexcept {
  uint64_t loaded = 0;
  const system::NoFork whole;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* loaded) {
        *static_cast<uint64_t*>(loaded) = info->dlpi_adds;
        return 1;  // every library says the same
      },
      &loaded);
  return loaded;
}

void each(const char* const* names, int count, void (*see)(void*, const char*), void* context) noexcept {
  Search search{names, count, see, context};
  const system::NoFork whole;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* search) {
        static_cast<const Search*>(search)->consider(info->dlpi_name);
        return 0;
      },
      &search);
}

#endif

void* keep(const char* path) noexcept { return dlopen(path, RTLD_LAZY | RTLD_NOLOAD); }

void release(void* library) noexcept { dlclose(library); }

void* symbol(void* library, const char* name) noexcept { return dlsym(library, name); }

const char* path_of(const void* address) noexcept {
  Dl_info info;
  return dladdr(address, &info) && info.dli_fname ? info.dli_fname : "the program";
}

#endif

}  // namespace foveate::libraries
