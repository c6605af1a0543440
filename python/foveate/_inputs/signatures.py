"""Functions that hand on `**options`: their signature says which, and they take no other."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def with_options(
    options: Any, of: Callable[..., object], after: str | None = None
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Spell out the `**options` of a function, and refuse other keywords in its own name.

    Parameters
    ----------
    options : TypedDict
        Which they are.
    of : function
        Has them by name: their order and defaults are its own.
    after : str, optional
        The parameter behind which the signature has them; None is the last.

    Examples
    --------
    >>> from typing import TypedDict
    >>> class Options(TypedDict, total=False):
    ...     base: int
    >>> @with_options(Options, of=lambda x, base=2, other=3: x ** base)
    ... def area(x, **options):
    ...     return x ** options.get("base", 2)
    >>> inspect.signature(area)
    <Signature (x, *, base=2)>
    >>> area(3, other=1)
    Traceback (most recent call last):
    TypeError: area() got an unexpected keyword argument 'other'
    """
    names = options.__required_keys__ | options.__optional_keys__
    spelled = [
        parameter.replace(kind=parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(of).parameters.values()
        if parameter.name in names
    ]

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        signature = inspect.signature(function)
        *parameters, _ = signature.parameters.values()
        place = len(parameters)
        if after is not None:
            place = [parameter.name for parameter in parameters].index(after) + 1
        parameters[place:place] = spelled
        known = {parameter.name for parameter in parameters}

        @functools.wraps(function)
        def checked(*args: Parameters.args, **keywords: Parameters.kwargs) -> Result:
            if not known.issuperset(keywords):
                unknown = next(name for name in keywords if name not in known)
                raise TypeError(
                    f"{function.__qualname__}() got an unexpected keyword argument {unknown!r}"
                )
            return function(*args, **keywords)

        checked.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return checked

    return decorate
