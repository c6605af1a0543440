"""The Performance pages from stored results: Markdown and pictures, a page for each machine.

A function of the stored JSON alone: the same files give the same pages, on any machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import kinds
import report_pictures
from foveate._cli.compare import format_ratio, format_seconds

OWN = "foveate"
INDEX = """\
# Performance

How fast foveate is beside its peers, on each machine that was measured. A page is made from one
run on one machine, whose numbers are kept in `benchmarks/results`. Numbers of different machines
should not be compared.

{machines}

## How it is measured

- The contenders take turns, in rounds, so that the noise of the machine affects all of them alike.
  A time is the median over the rounds.
- A **share** is the share of the machine's peak, which is measured between the rounds of the same
  run: fused multiply-adds, or memory that is read. It counts only the work that has to be done:
  half the square of a causal problem, and the keys in a window.
- A workload without a peak has a speed: billions of tanh, or of pairs of points, or tokens a
  second.
- The answer of each contender is checked against that of foveate before it is timed. A wrong
  answer is reported, and not timed.
- Each contender gets its data in the layout, and by the function, that serves it best. All have
  the same number of threads.
- **Memory** is the most that a call takes beyond its operands and its output.

## The page of your machine

```sh
pip install ".[bench]"
pip install ".[peers]" torch
python -m foveate bench               # two minutes: a table in the terminal
python benchmarks/report.py           # a quarter of an hour: results, page and pictures
python benchmarks/report.py --pages   # the pages again, from the stored results
```

A peer that is not installed is left out. [Comparing two commits](comparing.md) says how to see
what a change does to the speed.

Densities, local regression and several machines have [a page](performance_regression.md) of scripts
of their own. Other machines, among them one with AMX, were [measured before](performance_before.md)
these pages existed. [The story of the kernel](kernel_story.md) says where the time goes.

## Who is not timed

- **NumKong** 7.8: its Python package has no attention. Its C header has attention for AMX and SME
  alone, and no machine above has either.
- **oneDNN**: its package is the library, without headers and without a Python interface. torch and
  OpenVINO run its kernels, and are timed.
- **FlashAttention** and **xFormers**: their kernels are for GPUs.

scikit-learn, statsmodels, KeOps and numba have no attention. They are timed at kernel regression,
and numba at draws from categories.
"""


def write(stored: Mapping[str, Mapping[str, Any]], docs: Path) -> Iterator[Path]:
    """Write the page of each machine, its pictures, and the page that lists them; yield each."""
    folder = docs / "performance"
    folder.mkdir(parents=True, exist_ok=True)
    for name, report in stored.items():
        pictures = report_pictures.draw(report, folder / name)
        path = folder / f"{name}.md"
        path.write_text(page(report, name, pictures), encoding="utf-8")
        yield path
    path = docs / "performance.md"
    path.write_text(INDEX.format(machines=machines(stored)), encoding="utf-8")
    yield path


def machines(stored: Mapping[str, Mapping[str, Any]]) -> str:
    """The list of machines, each with a link to its page."""
    lines = ["| machine | instruction set | threads | measured | the best peer takes |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for name, report in stored.items():
        facts = report["machine"]
        ratios = [
            best[1]["time over foveate's"] for one in report["workloads"] if (best := peer(one))
        ]
        typical = f"{median(ratios):.2f} times as long (median)" if ratios else ""
        cells = [f"[{facts['processor']}](performance/{name}.md)", facts["instruction set"]]
        cells += [str(report["threads"]), report["date"], typical]
        lines.append(f"| {' | '.join(cells)} |")
    pages = [*(f"performance/{name}" for name in stored), "performance_regression"]
    pages += ["performance_before", "comparing"]
    return "\n".join([*lines, "", "```{toctree}", ":hidden:", "", *pages, "```"])


def peer(one: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    """The fastest contender of a workload that is not foveate, nor a part of its work."""
    others = [item for item in one["contenders"].items() if not item[0].startswith(OWN)]
    return min(others, key=lambda item: item[1]["seconds"], default=None)


def page(report: Mapping[str, Any], name: str, pictures: Mapping[str, str]) -> str:
    """The page of one machine."""
    facts, threads = report["machine"], report["threads"]
    parts = [
        f"# {facts['processor']}, {threads} thread{'s' if threads > 1 else ''}",
        _facts(report),
    ]
    for path, caption in pictures.items():
        parts.append(f"![{caption}]({name}/{path})\n\n{caption}")
    parts += ["## All workloads", _table(report["workloads"])]
    parts += ["## Who is timed", _contenders(report)]
    left_out = _left_out(report["workloads"], report.get("memory left out", {}))
    if left_out:
        parts += ["## What was left out", left_out]
    return "\n\n".join(parts) + "\n"


def _facts(report: Mapping[str, Any]) -> str:
    facts = report["machine"]
    before, after = report["load before and after"]
    lines = [
        f"Measured on {report['date']}: foveate {facts['foveate']}, {facts['instruction set']}, "
        f"{report['threads']} threads, {facts['CPUs this process may use']} CPUs. "
        f"Python {facts['python']}; {facts['system']}.",
        "Versions: " + ", ".join(f"{name} {x}" for name, x in report["versions"].items()) + ".",
    ]
    peaks: dict[str, list[float]] = {}
    for one in report["workloads"]:
        if one["unit"]["is"].startswith("FMA peak") and one["unit"]["rounds"]:
            peaks.setdefault(one["unit"]["is"], []).append(one["unit"]["median a second"])
    shown = (f"{unit}: {median(found) / 1e9:.0f} billion a second" for unit, found in peaks.items())
    if peaks:
        lines.append(f"Peaks that were measured, by the median: {'; '.join(shown)}.")
    if before and after:
        lines.append(
            f"Processes that wanted a CPU: {before[0]:g} before the run, {after[0]:g} at its end, "
            "where the run itself counts."
        )
    if report["note"]:
        lines.append(report["note"])
    return "\n\n".join(lines)


def _table(workloads: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| workload | time | speed | best peer | its speed | its time |"]
    lines.append("| --- | ---: | ---: | --- | ---: | ---: |")
    for one in workloads:
        own, best = one["contenders"].get(OWN), peer(one)
        if own is None:
            continue
        cells = [f"`{one['workload']}`", format_seconds(own["seconds"]), own["speed shown"]]
        cells += ["", "", ""]
        if best is not None:
            ratio = format_ratio(best[1]["time over foveate's"])
            cells[3:] = [best[0], best[1]["speed shown"], ratio]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "A percentage is a share of the peak of the run; the last column is over foveate's time.",
    ]
    lines += [
        "The name has the batch, heads, length and head size; `decode` has the batch and the keys."
    ]
    return "\n".join(lines)


def _contenders(report: Mapping[str, Any]) -> str:
    """What each name stands for, of those that were timed: it may differ by the kind of problem."""
    found: dict[str, dict[str, None]] = {}
    for one in report["workloads"]:
        for name, result in one["contenders"].items():
            found.setdefault(name, {})[result["title"]] = None
    lines = ["| name | what is called |", "| --- | --- |"]
    order = [name for name in kinds.CONTENDER_NAMES if name in found]
    lines += [f"| {name} | {'; '.join(found[name])} |" for name in order]
    return "\n".join(lines)


def _left_out(workloads: Sequence[Mapping[str, Any]], memory: Mapping[str, str]) -> str:
    """Each contender and reason once, with the number of workloads."""
    counts: dict[str, int] = {}
    for one in workloads:
        reasons = [f"{name}: {x.splitlines()[0]}" for name, x in one["skipped"].items()]
        reasons += [
            f"{name}: WRONG on `{one['workload']}`: {x}" for name, x in one["wrong"].items()
        ]
        for reason in reasons:
            reason = reason.partition(": a call took")[0]
            counts[reason] = counts.get(reason, 0) + 1
    lines = [f"- {reason} ({count})" for reason, count in sorted(counts.items())]
    lines += [f"- memory of {name}: {reason}" for name, reason in memory.items()]
    return "\n".join(lines)
