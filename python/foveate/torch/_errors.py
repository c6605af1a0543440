"""Errors of two classes: those of this library, and RuntimeError, which torch raises."""

from __future__ import annotations


class ArgumentTypeError(TypeError, RuntimeError):
    """A TypeError that `except RuntimeError`, as written for torch's own function, takes."""


class ArgumentValueError(ValueError, RuntimeError):
    """A ValueError that `except RuntimeError`, as written for torch's own function, takes."""
