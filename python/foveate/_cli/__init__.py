"""The command line of foveate: ``python -m foveate demo | bench | info``.

Each command is a module with ``add_arguments(parser)`` and ``run(options) -> int``, imported when
it is asked for, so that ``info`` needs nothing but NumPy.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from importlib import import_module

from .. import _core
from .._runtime.config import get_num_threads, version
from .._runtime.install import install

COMMANDS = {
    "demo": "recognize digits, fit a curve, align, learn where to look, generate",
    "bench": "time this machine beside NumPy, and the peers that are installed",
    "info": "print the build, the instruction sets and the threads",
}
TO_TRY = """\
Three things to try:
  python -m foveate demo digits     recognizes digits, without training
  python -m foveate bench --quick   times this machine, in half a minute
  python -m foveate info            shows the build, instruction sets, threads

python -m foveate COMMAND --help    the options of a command, with examples"""


class MissingPackageError(Exception):
    """An optional package that a command needs is not installed; the message says how to get it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this command needs {package}, which is not installed here. "
            f"Install what it needs with:  {install(extra, f'{sys.executable} -m pip')}"
        )


def require(package: str, extra: str, distribution: str | None = None, without: str = "") -> None:
    """Raise MissingPackageError where a package cannot be imported.

    ``distribution`` is its name in pip; ``without`` is added to the message, if it is given.
    """
    try:
        import_module(package)
    except ImportError as error:
        missing = MissingPackageError(distribution or package, extra)
        if without:
            missing.args = (f"{missing}\n{without}",)
        raise missing from error


def _number(text: str, low: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = low - 1
    if number < low:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted a whole number, {low} or more")
    return number


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    return _number(text, 1)


def non_negative(text: str) -> int:
    """A whole number of at least 0, for argparse."""
    return _number(text, 0)


def seconds(text: str) -> float:
    """A duration above 0, for argparse."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted a number of seconds above 0")
    return number


def build_parser(wanted: str | None = None) -> argparse.ArgumentParser:
    """The parser; the options of the ``wanted`` command only, or of all of them for None."""
    parser = argparse.ArgumentParser(
        prog="python -m foveate", description="foveate: attention on CPUs, from NumPy arrays."
    )
    parser.add_argument("--version", action="version", version=f"foveate {version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="demo | bench | info")
    for name, purpose in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=purpose,
            description=purpose[0].upper() + purpose[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if wanted in (None, name):
            module = import_module(f"foveate._cli.{name}")
            module.add_arguments(command)
            command.epilog = f"examples:\n{module.TRY}"
    return parser


def _welcome() -> str:
    """What there is, and what to try first."""
    commands = "\n".join(f"  {name:<8}{purpose}" for name, purpose in COMMANDS.items())
    using = f"in use: {_core.isa_selected()}, threads: {get_num_threads()}"
    title = f"foveate {version()}: attention on CPUs, from NumPy arrays"
    return f"{title}\n\n{commands}\n\n{TO_TRY}\n\n{using}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 not done, 2 wrong usage, 130 Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words:
        print(_welcome())
        return 0
    wanted = next((word for word in words if word in COMMANDS), "")
    options = build_parser(wanted).parse_args(words)
    try:
        return int(import_module(f"foveate._cli.{options.command}").run(options))
    except MissingPackageError as error:
        print(f"foveate {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"foveate {options.command}: stopped", file=sys.stderr)
        return 130
