"""Errors that are a RuntimeError too, which flash-attention raises."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from ..torch._errors import ArgumentTypeError, ArgumentValueError

Given = ParamSpec("Given")
Result = TypeVar("Result")


def also_runtime_errors(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Let a function raise what `except RuntimeError`, as written for flash-attention, takes."""

    @wraps(function)
    def call(*args: Given.args, **keywords: Given.kwargs) -> Result:
        try:
            return function(*args, **keywords)
        except TypeError as error:
            raise ArgumentTypeError(str(error)) from error
        except ValueError as error:
            raise ArgumentValueError(str(error)) from error

    return call
