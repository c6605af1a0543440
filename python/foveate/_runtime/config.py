"""Threads, and information about the build."""

from __future__ import annotations

import os
import platform
import warnings
from types import TracebackType
from typing import Any, Literal, overload

import numpy as np

from .. import _core
from .._inputs.arrays import integer

_MOST_THREADS = _core.most_threads


def _count(n: int) -> int:
    count = integer("n", n)
    if not 0 <= count <= _MOST_THREADS:
        raise ValueError(
            f"n: got {count}, wanted a number of threads up to {_MOST_THREADS}, or 0 for the "
            "default"
        )
    return count


_THREADING = ("pool", "openmp")


def _check_environment() -> None:
    """Warn of what the engine, which reads these, cannot take."""
    threading = os.environ.get("FOVEATE_THREADING", "")
    if threading not in ("", *_THREADING):
        warnings.warn(
            f'FOVEATE_THREADING: got {threading!r}, wanted "pool" or "openmp"; it is ignored',
            RuntimeWarning,
            stacklevel=2,
        )
    text = os.environ.get("FOVEATE_NUM_THREADS", "").strip()
    number = text.removeprefix("+")
    whole = number.isascii() and number.isdigit()
    large = whole and (len(number.lstrip("0")) > 9 or int(number) > _MOST_THREADS)
    if not text or (whole and not large):
        return
    warnings.warn(
        f"FOVEATE_NUM_THREADS: got {text!r}, wanted a number of threads up to {_MOST_THREADS}; "
        + (f"{_MOST_THREADS} are used" if large else "it is ignored"),
        RuntimeWarning,
        stacklevel=2,
    )


_check_environment()


def set_num_threads(n: int) -> None:
    """Set how many threads later calls use, in the whole process.

    Parameters
    ----------
    n : int
        1 to 1,024; 0 returns to the default: `FOVEATE_NUM_THREADS`; else what the program has told
        an OpenMP runtime (`omp_set_num_threads`, `threadpoolctl`); else `OMP_NUM_THREADS`; else the
        CPUs that the process may use, by its affinity and by the CPU quota of its container.
        `OMP_THREAD_LIMIT`, and a number to which an OpenMP runtime was lowered, limit all of these.

    Raises
    ------
    TypeError, ValueError
        For anything but an int from 0 to 1,024.

    Examples
    --------
    >>> import foveate as fv
    >>> fv.set_num_threads(1)
    >>> fv.get_num_threads()
    1
    >>> fv.set_num_threads(0)
    """
    _core.set_num_threads(_count(n))


def get_num_threads() -> int:
    """Return how many threads a call made now would use.

    Returns
    -------
    int
        1 or more.

    Examples
    --------
    >>> import foveate as fv
    >>> fv.get_num_threads() >= 1
    True
    """
    return _core.get_num_threads()


def set_threading(threading: str) -> None:
    """Choose whether later calls use the library's own threads or OpenMP's, in the whole process.

    Parameters
    ----------
    threading : {"pool", "openmp"}
        "pool" means the library's own threads. A call waits for them only where they have taken
        some of its work, and a forked child starts new ones. "openmp" means the threads of an
        OpenMP runtime: the one that the library was built with or, since wheels are built with
        none, one that another package has loaded. A forked child uses the pool then. The results
        are the same. The default is `FOVEATE_THREADING`, else "pool"; where that variable says
        "openmp", the pool is used until there is a runtime.

    Raises
    ------
    TypeError
        For anything but a str.
    ValueError
        For another name, and for "openmp" where there is no runtime.

    Examples
    --------
    >>> import foveate as fv
    >>> before = fv.get_threading()
    >>> fv.set_threading("pool")
    >>> fv.get_threading()
    'pool'
    >>> fv.set_threading(before)
    """
    given: object = threading
    if not isinstance(given, str):
        kind = type(given).__name__
        raise TypeError(f'threading: got {kind}, wanted a str, "pool" or "openmp"')
    if given not in _THREADING:
        raise ValueError(f'threading: got {given!r}, wanted "pool" or "openmp"')
    _core.set_threading(given)


def get_threading() -> str:
    """Return whether a call made now would use the library's own threads or OpenMP's.

    Returns
    -------
    str
        "pool" or "openmp", as for `set_threading`.

    Examples
    --------
    >>> import foveate as fv
    >>> fv.get_threading() in ("pool", "openmp")
    True
    """
    return _core.get_threading()


class num_threads:  # noqa: N801  (used as a function)
    """Set the number of threads within a `with` block, in the whole process.

    Parameters
    ----------
    n : int
        As for `set_num_threads`.

    Raises
    ------
    TypeError, ValueError
        For anything but an int from 0 to 1,024.

    Examples
    --------
    >>> import foveate as fv
    >>> with fv.num_threads(1):
    ...     fv.get_num_threads()
    1
    """

    def __init__(self, n: int) -> None:
        self._n = _count(n)
        self._before: list[int] = []

    def __enter__(self) -> None:
        """Set the number, and note the one before."""
        self._before.append(_core.requested_num_threads())
        _core.set_num_threads(self._n)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Return to the number before."""
        _core.set_num_threads(self._before.pop())


def version() -> str:
    """Look up the version; what knows it is imported here, since that takes as long as the rest."""
    from importlib import metadata

    return metadata.version("foveate")


def _facts() -> dict[str, dict[str, Any]]:
    return {
        "foveate": {"version": version(), "compiler": _core.compiler},
        "instruction set": {
            "in use": _core.isa_selected(),
            "features": _core.isa_features(),
            "available": _core.isa_names(),
        },
        "threads": {
            "in use": _core.get_num_threads(),
            "requested": _core.requested_num_threads() or None,
            "at most": _MOST_THREADS,
            "threading": _core.get_threading(),
            "OpenMP": _core.openmp_names() or "none",
        },
        "platform": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "machine": platform.machine(),
            "system": platform.platform(),
        },
    }


@overload
def show_config(mode: Literal["stdout"] = ...) -> None: ...


@overload
def show_config(mode: Literal["dicts"]) -> dict[str, dict[str, Any]]: ...


def show_config(mode: str = "stdout") -> dict[str, dict[str, Any]] | None:
    """Show the version, the compiler, the instruction sets and the threads.

    Parameters
    ----------
    mode : {"stdout", "dicts"}, default "stdout"
        Print, or return as a dictionary of dictionaries.

    Returns
    -------
    dict or None

    Raises
    ------
    ValueError
        For another mode.

    Examples
    --------
    >>> import foveate as fv
    >>> sorted(fv.show_config("dicts"))
    ['foveate', 'instruction set', 'platform', 'threads']
    """
    if not isinstance(mode, str) or mode not in ("stdout", "dicts"):
        raise ValueError(f'mode: got {mode!r}, wanted "stdout" or "dicts"')
    facts = _facts()
    if mode == "dicts":
        return facts
    for title, section in facts.items():
        print(f"{title}:")
        for name, fact in section.items():
            text = ", ".join(fact) if isinstance(fact, list) else fact
            print(f"  {name}: {'default' if fact is None else text}")
    return None
