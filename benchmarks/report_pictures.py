"""The pictures of a Performance page: bars, shares of the peak, time and memory over length."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foveate._cli.chart import OWN as OWN_COLOR
from foveate._cli.chart import PEER as PEER_COLOR
from foveate._cli.chart import draw_bars
from matplotlib import pyplot

OWN = "foveate"
# One of each kind, in bars; the table has all.
FEATURED = (
    *("float32-1x16x1024x64", "float32-causal-8x12x512x64", "bfloat16-1x16x1024x64"),
    *("window128-1x8x4096x64", "decode-float32-1x32768", "float32-short-1x12x128x64"),
    *("backward-1x16x1024x64", "additive-1x1024x1024x128", "gaussian-20000x1"),
    *("hard-sample-1x8x2048x64", "local-p-sorted-1x8x16384x64", "multinoulli-4096x4096"),
)
COLORS = {"numpy": "#0e7490", "torch": "#7c3aed", "onnxruntime-mha": "#2563eb"}
COLORS |= {"openvino": "#16a34a", "jax": "#ca8a04", OWN: OWN_COLOR}
LEAST_MIB = 0.1
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "foveate", "font.size": 9}


def draw(report: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Draw what the report has numbers for: the names of the files, and what they show."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, str] = {}
    workloads = report["workloads"]
    with pyplot.rc_context(STYLE):
        by_name = {one["workload"]: one for one in workloads}
        featured = [by_name[name] for name in FEATURED if name in by_name] or workloads[:12]
        if any(one["contenders"] for one in featured):
            draw_bars(featured, folder / "bars.svg", columns=2)
            drawn["bars.svg"] = "Time of a call, and how many times that of foveate it is."
        if _shares(workloads, folder / "shares.svg"):
            drawn["shares.svg"] = (
                "Share of the peak that was measured in the same run: foveate, and its best peer."
            )
        times = {
            name: {
                one["length"]: one["contenders"][name]["seconds"] * 1e3
                for one in report["lengths"]
                if name in one["contenders"]
            }
            for name in dict.fromkeys(x for one in report["lengths"] for x in one["contenders"])
        }
        if times:
            _lines(times, "milliseconds", folder / "time.svg")
            drawn["time.svg"] = "Time over length, float32, 8 heads of size 64."
        memory = {
            name: {int(length): max(mib, LEAST_MIB) for length, mib in found.items()}
            for name, found in report["memory"].items()
        }
        if memory:
            _lines(memory, "MiB beyond operands and output", folder / "memory.svg")
            drawn["memory.svg"] = (
                f"Memory over length, of the same problems, drawn from {LEAST_MIB} MiB."
            )
    return drawn


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _shares(workloads: Any, path: Path) -> bool:
    """Two bars for each workload that has a peak; whether there is one."""
    rows = []
    for one in workloads:
        speeds = {name: x["speed"] for name, x in one["contenders"].items() if x["speed"]}
        if OWN in speeds and ("peak" in one["unit"]["is"] or "read" in one["unit"]["is"]):
            peers = [x for name, x in speeds.items() if not name.startswith(OWN)]
            rows.append((one["workload"], speeds[OWN], max(peers, default=0.0)))
    if not rows:
        return False
    figure, axis = pyplot.subplots(figsize=(8.5, 0.6 + 0.3 * len(rows)), layout="constrained")
    for place, (_, own, best) in enumerate(rows):
        label = {"label": OWN} if not place else {}
        axis.barh(place - 0.2, 100 * own, 0.38, color=OWN_COLOR, **label)
        label = {"label": "best peer"} if not place else {}
        axis.barh(place + 0.2, 100 * best, 0.38, color=PEER_COLOR, **label)
    axis.set_yticks(range(len(rows)), [name for name, *_ in rows], fontsize=7)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlim(0, max(100.0, *(100 * max(own, best) for _, own, best in rows)))
    axis.set_xlabel("% of the peak")
    axis.legend(loc="lower right")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    _save(figure, path)
    return True


def _lines(found: Mapping[str, Mapping[int, float]], what: str, path: Path) -> None:
    """A line for each contender over the length, both on scales of powers."""
    figure, axis = pyplot.subplots(figsize=(7.5, 4.2), layout="constrained")
    for name, points in found.items():
        kept = dict(sorted(points.items()))
        width = 2.4 if name == OWN else 1.4
        axis.plot(
            list(kept),
            list(kept.values()),
            "o-",
            label=name,
            color=COLORS.get(name),
            linewidth=width,
            markersize=3.5,
        )
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    lengths = sorted({length for points in found.values() for length in points})
    axis.set_xticks(lengths, [str(length) for length in lengths])
    axis.minorticks_off()
    axis.set_xlabel("queries and keys")
    axis.set_ylabel(what)
    axis.grid(visible=True, alpha=0.25)
    axis.legend(fontsize=8)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    _save(figure, path)
