"""Errors that are a RuntimeError too, which flash-attention raises."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from ..torch._errors import ArgumentTypeError, ArgumentValueError

Function = TypeVar("Function", bound=Callable[..., Any])


def also_runtime_errors(function: Function) -> Function:
    """Let a function raise what `except RuntimeError`, as written for flash-attention, takes."""

    @wraps(function)
    def call(*args: Any, **keywords: Any) -> Any:
        try:
            return function(*args, **keywords)
        except TypeError as error:
            raise ArgumentTypeError(str(error)) from error
        except ValueError as error:
            raise ArgumentValueError(str(error)) from error

    return call  # type: ignore[return-value]
