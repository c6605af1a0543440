"""Public names report the public module that has them, and not the file that defines them.

Pickles, tracebacks and `repr` show it, and so outlive every move of a file.
"""

from __future__ import annotations

import inspect
import sys
import typing

_PACKAGE = __name__.partition(".")[0]


def publish(name: str) -> None:
    """Let the classes and functions in the `__all__` of a module name it as their module.

    What the package itself exports names the package. A name that is imported on demand is left
    alone.
    """
    module = sys.modules[name]
    found = vars(module)
    for thing in (found[x] for x in module.__all__ if x in found):
        home = getattr(thing, "__module__", "")
        if not home.startswith(f"{_PACKAGE}."):
            continue
        if isinstance(thing, type):
            _resolve_annotations(thing)
            for member in vars(thing).values():
                function = getattr(member, "__func__", member)
                if inspect.isfunction(function) and function.__module__ == home:
                    function.__module__ = name
        thing.__module__ = name


def _resolve_annotations(kind: type) -> None:
    """Evaluate annotations while their names are found where the class says that it stands."""
    own = inspect.get_annotations(kind)  # Python 3.14 makes them when they are asked for
    if own:
        found = typing.get_type_hints(kind)
        kind.__annotations__ = {name: found[name] for name in own}
