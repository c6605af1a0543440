"""Options of the benchmarks, the measurement behind each of them, and its table at the end."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import pytest
from pin_threads import pin

if TYPE_CHECKING:
    from shared_measurements import Measurements


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("foveate")
    group.addoption("--threads", type=int, help="threads of each contender (default: all CPUs)")
    group.addoption("--turns", type=int, default=7, help="rounds of a contender (default: 7)")
    group.addoption("--turn-seconds", type=float, default=0.2, help="length of one (default: 0.2)")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--threads") is not None:
        try:
            pin(config.getoption("--threads"))
        except ValueError as error:
            raise pytest.UsageError(str(error)) from error


MEASUREMENTS: pytest.StashKey[Measurements] = pytest.StashKey()


@pytest.fixture(scope="session")
def measurements(request: pytest.FixtureRequest) -> Measurements:
    """What was measured so far, made for the contenders that this run has selected."""
    from shared_measurements import Measurements  # numpy starts threads: not before pin()

    wanted: dict[str, list[str]] = defaultdict(list)
    for item in request.session.items:
        if isinstance(item, pytest.Function):
            wanted[item.callspec.params["workload"]].append(item.callspec.params["contender"])
    config = request.config
    made = Measurements(wanted, config.getoption("--turns"), config.getoption("--turn-seconds"))
    config.stash[MEASUREMENTS] = made
    return made


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    made = config.stash.get(MEASUREMENTS, None)
    if made is None or not made.done:
        return
    from table import markdown

    terminalreporter.section(f"speed measured in this run, {made.threads} threads")
    terminalreporter.write_line(markdown(list(made.done.values())))
