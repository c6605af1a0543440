"""A worker: cases one after the other, and what they find as lines of JSON."""

from __future__ import annotations

import faulthandler
import json
import mmap
import os
import re
import signal
import struct
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fuzz.case import ISAS, Case, Finding, mixed, summary
from fuzz.functions import FUNCTIONS, function_of

STATE = struct.Struct("QQQ")  # the number of the case, its seed, the calls so far


class State:
    """Where a worker is, in a file that is read while it runs and after its death."""

    def __init__(self, path: str) -> None:
        with Path(path).open("r+b") as file:
            self._mapped = mmap.mmap(file.fileno(), STATE.size)

    def write(self, number: int, seed: int, calls: int) -> None:
        STATE.pack_into(self._mapped, 0, number, seed, calls)

    def read(self) -> tuple[int, int, int]:
        number, seed, calls = STATE.unpack_from(self._mapped)
        return number, seed, calls


def run(case: Case, name: str) -> str | None:
    """Run a case; what it found, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            FUNCTIONS[name][0](case)
    except Finding as finding:
        return str(finding)
    except Exception as error:
        lines = traceback.extract_tb(error.__traceback__)
        place = next((x for x in reversed(lines)), None)
        where = f"{Path(place.filename).name}:{place.lineno}" if place else ""
        return f"{type(error).__name__}: {error} ({where})"
    return None


def kind_of(name: str, message: str) -> str:
    """What findings of one kind have in common: the message without its numbers."""
    words = re.sub(r"\([^)]*\)|[-+]?[0-9.]+(e[-+]?\d+)?|nan|inf", "#", message.split(";")[0])
    return f"{name}: {words[:60]}"


def simpler(seed: int, name: str, isas: Sequence[str], message: str) -> tuple[dict[str, int], Case]:
    """Fix choices to simpler ones as long as the case stays a finding of its kind."""
    kind = kind_of(name, message)
    case = Case(seed, None, isas)
    run(case, name)
    fixed: dict[str, int] = {}
    budget = time.monotonic() + 20
    for choice, place in sorted(case.taken.items()):
        for less in dict.fromkeys((0, 1, place // 4, place // 2)):
            if less >= place or time.monotonic() > budget:
                continue
            attempt = Case(seed, fixed | {choice: less}, isas)
            found = run(attempt, name)
            if found is not None and kind_of(name, found) == kind:
                fixed[choice] = less
                break
    case = Case(seed, fixed, isas)
    run(case, name)
    return fixed, case


def left_of(case: Case) -> dict[str, str]:
    """The choices that are not the simplest, by what they are."""
    return {name: summary(case.chosen.get(name, True)) for name in case.taken}


def seed_of(base: int, number: int) -> int:
    return mixed(mixed(base) + number)


def work(options: Any) -> None:
    """Run cases number `first`, `first` + `step`, ..."""
    faulthandler.enable()
    state = State(options.state)
    names = set(options.functions)
    isas = [options.isa] if options.isa else ISAS
    calls, cases, number = 0, 0, options.first
    known: dict[str, int] = {}
    deadline = time.monotonic() + options.seconds
    while time.monotonic() < deadline and calls < options.calls:
        seed = seed_of(options.seed, number)
        case = Case(seed, None, isas)
        name = function_of(case)
        if name in names:
            state.write(number, seed, calls)
            if options.crash and cases == 10:
                os.kill(os.getpid(), signal.SIGSEGV)
            message = run(case, name)
            cases += 1
            calls += case.calls
            if message is not None:
                kind = kind_of(name, message)
                known[kind] = known.get(kind, 0) + 1
                report = {"seed": seed, "function": name, "message": message, "kind": kind}
                if known[kind] <= options.show:
                    fixed, small = simpler(seed, name, isas, message)
                    report |= {"fixed": fixed, "call": small.describe(), "left": left_of(small)}
                    report["simplest"] = run(Case(seed, fixed, isas), name)
                print(json.dumps(report), flush=True)
        number += options.step
    state.write(number, 0, calls)


def replay(options: Any) -> int:
    """Run one seed, and tell each call before it is made."""
    faulthandler.enable()
    isas = [options.isa] if options.isa else ISAS
    fixed = dict(pair.split("=") for pair in options.fix.split(",") if pair)
    case = Case(
        int(options.replay, 0),
        {name: int(place) for name, place in fixed.items()},
        isas,
        lambda line: print(line, file=sys.stderr, flush=True),
    )
    name = function_of(case)
    if options.traceback:
        FUNCTIONS[name][0](case)
        return 0
    message = run(case, name)
    print(f"{name}: {message or 'nothing found'}")
    return int(message is not None)
