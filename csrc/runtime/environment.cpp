#include "environment.hpp"

#include <algorithm>
#include <cctype>
#include <cstdlib>

#include "foveate/foveate.h"

namespace foveate {

int threads_in_environment(const char* name, List list) noexcept {
  const char* text = std::getenv(name);
  if (!text || !*text) return 0;
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  while (std::isspace(static_cast<unsigned char>(*end))) ++end;
  const bool over = *end == '\0' || (list == List::first && *end == ',');
  return over && value > 0 ? int(std::min<long>(value, FV_MAX_THREADS)) : 0;
}

}  // namespace foveate
