// The version of the engine.
#include "foveate/foveate.h"

int32_t fv_version(void) noexcept { return FV_VERSION; }
