"""Pictures of attention: the weights of heads, the reach of queries, an alignment.

Only this module needs matplotlib; the extra `plot` installs it. A row of a picture is a query, a
column a key, and the first of both are at the top left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ._attention.problem import Problem
from ._attention.soft import attention_weights
from ._inputs.arrays import compute_dtype, float_arrays, integer
from ._inputs.options import ReachOptions
from ._inputs.signatures import with_options
from ._inputs.types import Array, ArrayLike
from ._reach.reach import Reach, resolve
from ._runtime.install import install

try:
    from matplotlib import pyplot
    from matplotlib.axes import Axes
except ImportError as _error:
    raise ImportError(f"foveate.plot needs matplotlib 3.8 or later: {install('plot')}") from _error

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["alignment", "reach", "weights"]

_COLUMNS = 4  # of panels side by side, in a figure that is made here
_PANEL = (3.6, 3.2)  # inches


def weights(
    weights: ArrayLike,
    *,
    queries: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    titles: Sequence[str] | None = None,
    cmap: Any = "Blues",
    axes: Any = None,
) -> Any:
    """Draw the weights of each query as a heatmap, one panel a head.

    Parameters
    ----------
    weights : array (Lq, Lk) or (heads, Lq, Lk)
        Such as `foveate.attention_weights` returns, of any float dtype, not negative. The colors
        go from 0 to the largest weight of all heads; NaN has none.
    queries : sequence of str (Lq,), optional
        Labels of the rows, such as tokens.
    keys : sequence of str (Lk,), optional
        Labels of the columns.
    titles : sequence of str (heads,), optional
        Of the panels. "head 0" and so on by default; a matrix has none.
    cmap : str or matplotlib colormap, default "Blues"
    axes : matplotlib Axes, or sequence of them (heads,), optional
        Where to draw. By default in a new figure, with a color bar.

    Returns
    -------
    matplotlib.axes.Axes, or numpy.ndarray of them (heads,)
        One for a matrix; the figure is their `.figure`.

    Raises
    ------
    TypeError, ValueError
        For what is no float array of these shapes, for negative weights, and for other numbers of
        labels, titles or axes.

    See Also
    --------
    foveate.attention_weights : computes them.
    alignment : draws one matrix as papers on translation do.

    Examples
    --------
    >>> import foveate as fv, numpy as np
    >>> from foveate import plot
    >>> x = np.random.default_rng(0).normal(size=(2, 3, 8))  # two heads, three tokens
    >>> tokens = ["to", "look", "at"]
    >>> axes = plot.weights(fv.attention_weights(x, x), queries=tokens, keys=tokens)
    >>> [axis.get_title() for axis in axes]
    ['head 0', 'head 1']
    >>> axes[0].figure.savefig("heads.png")  # doctest: +SKIP
    """
    panels = _weights(weights, "(Lq, Lk) or (heads, Lq, Lk)", 2, 3)
    largest = float(np.max(panels, initial=0.0, where=np.isfinite(panels))) or 1.0
    labels = {"queries": queries, "keys": keys}
    return _draw(panels, labels, "head", titles, cmap, largest, axes, bar=axes is None)


@with_options(ReachOptions, of=attention_weights, after="keys")
def reach(
    queries: int | Sequence[str],
    keys: int | Sequence[str],
    *,
    titles: Sequence[str] | None = None,
    cmap: Any = "Blues",
    axes: Any = None,
    **options: Unpack[ReachOptions],
) -> Any:
    """Draw which keys each query sees.

    Parameters
    ----------
    queries, keys : int or sequence of str
        How many, or their labels.
    mask, causal, window, offset, key_lengths, segments : optional
        As for `foveate.attention`. Where they have a leading axis, there is a panel for each.
    titles : sequence of str, optional
        Of the panels. "batch 0" and so on by default; a single picture has none.
    cmap : str or matplotlib colormap, default "Blues"
        Keys that are not seen have the color of 0, keys that are seen that of 1.
    axes : matplotlib Axes, or sequence of them, optional
        Where to draw. By default in a new figure.

    Returns
    -------
    matplotlib.axes.Axes, or numpy.ndarray of them
        One where the reach has no leading axis.

    Raises
    ------
    TypeError, ValueError
        As `foveate.attention`; for more than one leading axis, and for other numbers of titles or
        axes.

    See Also
    --------
    foveate.attention : explains the keywords.

    Examples
    --------
    >>> from foveate import plot
    >>> axis = plot.reach(4, 6, causal=True, window=(2, None), offset="end")
    >>> axis.images[0].get_array().astype(int)
    masked_array(
      data=[[1, 1, 1, 0, 0, 0],
            [0, 1, 1, 1, 0, 0],
            [0, 0, 1, 1, 1, 0],
            [0, 0, 0, 1, 1, 1]],
      mask=False,
      fill_value=999999)
    """
    rows, row_labels = _count("queries", queries)
    columns, column_labels = _count("keys", keys)
    query, key = np.zeros((rows, 0), np.float32), np.zeros((columns, 0), np.float32)
    checked = resolve(query, key, **options, edges=False)
    lead, mask = _lead(checked), checked.mask
    if checked.is_by_tiles:
        mask = mask.rows(0, rows)
    if mask is not None and mask.dtype != np.bool_:
        mask = mask != -np.inf  # seen is also where so little is added that the weight would be 0
    query = np.broadcast_to(query, (*lead, rows, 0))  # all scores are alike
    seen = checked._replace(mask=mask, table=None, query_places=None, key_places=None)
    given = Problem(query, key, reach=seen).weights()
    labels = {"queries": row_labels, "keys": column_labels}
    return _draw((given > 0) * 1.0, labels, "batch", titles, cmap, 1.0, axes)


def alignment(
    weights: ArrayLike,
    source: Sequence[str],
    target: Sequence[str],
    *,
    cmap: Any = "gray",
    axes: Any = None,
) -> Any:
    """Draw an alignment as in the paper of Bahdanau et al. [1]_: white is 1, black is 0.

    Parameters
    ----------
    weights : array (target, source)
        Of each target word (query) over the source words (keys), of any float dtype, not negative.
    source : sequence of str
        The words that are looked at, along the top.
    target : sequence of str
        The words that look, from top to bottom.
    cmap : str or matplotlib colormap, default "gray"
    axes : matplotlib Axes, optional
        Where to draw. By default in a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        For what is no float array (target, source), and for negative weights.

    See Also
    --------
    weights : draws many heads, on a scale of their own.

    References
    ----------
    .. [1] D. Bahdanau, K. Cho and Y. Bengio, "Neural Machine Translation by Jointly Learning to
       Align and Translate", ICLR 2015, figure 3.

    Examples
    --------
    >>> import numpy as np
    >>> from foveate import plot
    >>> weights = np.array([[0.9, 0.1, 0.0], [0.1, 0.2, 0.7]])
    >>> axis = plot.alignment(weights, ["il", "fait", "froid"], ["it", "freezes"])
    >>> [label.get_text() for label in axis.get_xticklabels()]
    ['il', 'fait', 'froid']
    """
    panel = _weights(weights, "(target, source)", 2)
    axis = _draw(panel, {"target": target, "source": source}, "", None, cmap, 1.0, axes)
    axis.xaxis.tick_top()
    axis.xaxis.set_label_position("top")
    return axis


# --- what goes in ---------------------------------------------------------------------------------


def _weights(given: ArrayLike, wanted: str, *dimensions: int) -> Array:
    (array,) = float_arrays(weights=given)
    if array.ndim not in dimensions or array.size == 0:
        raise ValueError(f"weights: got shape {array.shape}, wanted {wanted}, none of them 0")
    array = array.astype(compute_dtype(array.dtype), copy=False)  # matplotlib knows no bfloat16
    negative = array[array < 0]
    if negative.size:
        raise ValueError(f"weights: got {negative.min()}, wanted numbers >= 0")
    return array


def _count(name: str, given: int | Sequence[str]) -> tuple[int, Sequence[str] | None]:
    """Take a number of positions, or their labels."""
    if isinstance(given, Sequence):
        return len(given), given
    count = integer(name, given)
    if count < 1:
        raise ValueError(f"{name}: got {count}, wanted a number >= 1, or labels")
    return count, None


def _lead(reach: Reach) -> tuple[int, ...]:
    """Find the leading axis of a reach, if it has one."""
    shapes = reach.leading_axes
    try:
        lead = np.broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(f"reach: got leading axes {shapes}, wanted those of one batch") from None
    if len(lead) > 1 or 0 in lead:
        raise ValueError(f"reach: got the leading axes {lead}, wanted one or none, not of length 0")
    return lead


# --- what comes out -------------------------------------------------------------------------------


def _draw(
    given: Array,
    labels: dict[str, Sequence[str] | None],
    kind: str,
    titles: Sequence[str] | None,
    cmap: Any,
    largest: float,
    axes: Any,
    *,
    bar: bool = False,
) -> Any:
    """Draw a matrix in one axes, or matrices (n, Lq, Lk) in an array of axes (n,).

    `labels` are the names of rows and columns, with what stands at each of them.
    """
    for (name, texts), count in zip(labels.items(), given.shape[-2:], strict=True):
        if texts is not None and len(texts) != count:
            raise ValueError(f"{name}: got {len(texts)} labels, wanted {count}")
    panels = given if given.ndim == 3 else given[None]
    if titles is None:
        titles = [f"{kind} {n}" for n in range(len(panels))] if given.ndim == 3 else [""]
    elif len(titles) != len(panels):
        raise ValueError(f"titles: got {len(titles)}, wanted {len(panels)}")
    drawn = _new_axes(len(panels)) if axes is None else _given_axes(axes, len(panels))
    (row, row_labels), (column, column_labels) = labels.items()
    for axis, panel, title in zip(drawn, panels, titles, strict=True):
        axis.imshow(
            panel, cmap=cmap, aspect="auto", interpolation="nearest", vmin=0.0, vmax=largest
        )
        axis.set(title=title, xlabel=column, ylabel=row)
        if row_labels is not None:
            axis.set_yticks(range(len(row_labels)), row_labels)
        if column_labels is not None:
            axis.set_xticks(range(len(column_labels)), column_labels, rotation=90)
    if bar:
        drawn[0].figure.colorbar(drawn[0].images[0], ax=list(drawn))
    return drawn if given.ndim == 3 else drawn[0]


def _new_axes(count: int) -> Array:
    """Make a figure with so many panels."""
    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    figure, grid = pyplot.subplots(
        rows,
        columns,
        squeeze=False,
        layout="constrained",
        figsize=(_PANEL[0] * columns, _PANEL[1] * rows),
    )
    for axis in grid.flat[count:]:
        figure.delaxes(axis)
    return np.asarray(grid.ravel()[:count])


def _given_axes(axes: Any, count: int) -> Array:
    array = np.asarray(axes, dtype=object).ravel()
    wrong = next((axis for axis in array if not isinstance(axis, Axes)), None)
    if wrong is not None:
        raise TypeError(f"axes: got {wrong!r}, wanted matplotlib Axes")
    if len(array) != count:
        raise ValueError(f"axes: got {len(array)}, wanted {count}")
    return array
