"""``python -m foveate demo``: the scripts of ``examples/``, which are installed too."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

from foveate._cli import non_negative, require
from foveate._runtime.paths import EXAMPLES

TRY = """\
  python -m foveate demo
  python -m foveate demo translate --no-picture
  python -m foveate demo generate
  python -m foveate demo regression --output pictures --format svg --seed 7"""
SUBJECTS = ("digits", "regression", "alignment", "reinforce", "translate", "generate")
SHORT = [x for x in SUBJECTS if x not in ("translate", "generate")]  # a few seconds each


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "subject",
        nargs="?",
        choices=SUBJECTS,
        help="digits: recognize handwritten digits; regression: fit a curve to noisy points; "
        "alignment: soft, hard and local attention side by side; reinforce: hard attention "
        "learns where to look; translate: an encoder-decoder learns to write spoken dates, in half "
        "a minute; generate: a chat with caches of few bits, beside transformers' own (default: "
        "all but the last two)",
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        type=Path,
        default=Path("foveate-demo"),
        help="the folder of the pictures, created if needed (default: %(default)s)",
    )
    parser.add_argument(
        "--format",
        choices=("png", "svg", "pdf"),
        default="png",
        help="the format of the pictures (default: %(default)s)",
    )
    parser.add_argument("--no-picture", action="store_true", help="draw nothing")
    parser.add_argument(
        "--seed",
        type=non_negative,
        default=0,
        help="chooses the unseen images, the noise and the sentences (default: %(default)s)",
    )


def script(subject: str) -> ModuleType:
    """The example of this name. They are scripts, which find each other in their folder."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        return import_module(subject)
    finally:
        sys.path.remove(str(EXAMPLES))


def run(options: argparse.Namespace) -> int:
    """Show one subject, or all short ones; returns 1 where an answer is not the reference's."""
    if not options.no_picture:
        require("matplotlib", "demo", without="To run without pictures, add --no-picture")
    if options.subject in (None, "digits"):
        require("sklearn", "demo", "scikit-learn")
    if options.subject == "generate":
        require("transformers", "transformers")
    passed = True
    for subject in [options.subject] if options.subject else SHORT:
        print(f"--- {subject} ".ljust(80, "-") + "\n")
        path = options.output / f"{subject}.{options.format}"
        passed &= script(subject).run(options.seed, None if options.no_picture else path)
        print()
    if not options.no_picture:
        print(f"The pictures are in {options.output.resolve()}")
    return 0 if passed else 1
