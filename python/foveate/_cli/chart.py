"""Bars of a comparison: the time of each contender, drawn from what ``--json`` writes.

A function of that dictionary alone, so that a stored run draws the same picture. Needs matplotlib.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foveate._cli.compare import format_ratio, format_seconds

OWN, PEER = "#c2410c", "#94a3b8"  # foveate, and all others
BAR, TITLE = 0.26, 0.55  # inches


def draw_bars(workloads: Sequence[Mapping[str, Any]], path: Path, columns: int = 2) -> None:
    """Save a picture with a panel for each workload: bars of time, the fastest above."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    timed = [one for one in workloads if one["contenders"]]
    columns = min(columns, len(timed)) or 1
    rows = [timed[first : first + columns] for first in range(0, len(timed), columns)]
    heights = [TITLE + BAR * max(len(one["contenders"]) for one in row) for row in rows]
    figure, axes = pyplot.subplots(
        len(rows) or 1,
        columns,
        squeeze=False,
        figsize=(4.8 * columns, sum(heights) or 1.0),
        height_ratios=heights or None,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for row, panels in zip(rows, axes, strict=False):
        for one, axis in zip(row, panels, strict=False):
            _panel(one, axis)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def _panel(one: Mapping[str, Any], axis: Any) -> None:
    contenders = sorted(one["contenders"].items(), key=lambda item: item[1]["seconds"])
    names = [name for name, _ in contenders]
    times = [found["seconds"] for _, found in contenders]
    axis.set_axis_on()
    axis.barh(names, times, height=0.7, color=[OWN if x == "foveate" else PEER for x in names])
    for place, (_, found) in enumerate(contenders):
        text = f" {format_seconds(found['seconds'])}"
        ratio = found["time over foveate's"]
        if names[place] != "foveate":
            text += f", {format_ratio(ratio)}"
        axis.text(times[place], place, text, va="center", fontsize=7)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.45 * max(times))
    axis.set_xticks([])
    axis.tick_params(axis="y", length=0, labelsize=7)
    for side in ("top", "right", "bottom"):
        axis.spines[side].set_visible(False)
    axis.set_title(one["workload"], fontsize=8, loc="left")
