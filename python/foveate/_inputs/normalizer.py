"""How scores become weights: the argument `normalizer`."""

from __future__ import annotations

from typing import Any, Final, get_args

from .types import Normalizer

DEFAULT: Final[Normalizer] = "softmax"
NORMALIZERS: tuple[str, ...] = get_args(Normalizer)


def normalizer_of(name: object, sink: Any) -> tuple[str | None, Any]:
    """Return the engine's name of a normalizer, None for the softmax, and the sink.

    Parameters
    ----------
    name : str
    sink : number or array, or None

    Raises
    ------
    TypeError, ValueError
        For another name, and for a sink beside anything but the softmax.

    Examples
    --------
    >>> normalizer_of("softmax_plus_one", None), normalizer_of("sigmoid", None)
    ((None, 0.0), ('sigmoid', None))
    """
    wanted = f"wanted one of {list(NORMALIZERS)}"
    if not isinstance(name, str):
        raise TypeError(f"normalizer: got {name!r}, {wanted}")
    if name not in NORMALIZERS:
        raise ValueError(f"normalizer: got {name!r}, {wanted}")
    if name == "softmax":
        return None, sink
    if sink is not None:
        raise ValueError(f"sink: got one with normalizer={name!r}, wanted none")
    return (None, 0.0) if name == "softmax_plus_one" else (name, None)


def has_lse(argument: str, weighing: str | None) -> None:
    """Refuse what a logarithm of the denominator is needed for, by the name of the argument.

    Raises
    ------
    ValueError
        Where the weights are no shares of a sum.
    """
    if weighing is not None:
        raise ValueError(
            f"{argument}: got one with normalizer={weighing!r}, which has no denominator"
        )
