"""Errors of two classes: as this library raises them, and as torch does, which knows RuntimeError."""

from __future__ import annotations


class ArgumentTypeError(TypeError, RuntimeError):
    """A TypeError that `except RuntimeError`, as written for torch's own function, takes."""


class ArgumentValueError(ValueError, RuntimeError):
    """A ValueError that `except RuntimeError`, as written for torch's own function, takes."""
