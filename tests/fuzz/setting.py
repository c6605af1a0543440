"""What a process has to be told before it starts."""

from __future__ import annotations

import os

_WANTED = {
    "MALLOC_PERTURB_": "165",  # glibc fills memory as it is taken
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",  # small blocks too
    "OMP_WAIT_POLICY": "passive",  # more threads than cores wait without work
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


def set_environment() -> bool:
    """Set what is not set yet; whether the process has to begin anew for it."""
    missing = {name: value for name, value in _WANTED.items() if name not in os.environ}
    os.environ.update(missing)
    return bool(missing)
