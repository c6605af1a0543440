"""``python -m foveate demo``: what attention does, in words and pictures, on small problems."""

from __future__ import annotations

import argparse
from pathlib import Path

from foveate._cli import (
    demo_alignment,
    demo_digits,
    demo_regression,
    demo_reinforce,
    demo_translate,
    non_negative,
    require,
)

SUBJECTS = {
    "digits": demo_digits.run,
    "regression": demo_regression.run,
    "alignment": demo_alignment.run,
    "reinforce": demo_reinforce.run,
    "translate": demo_translate.run,
}
SHORT = [subject for subject in SUBJECTS if subject != "translate"]  # a few seconds each


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "subject",
        nargs="?",
        choices=list(SUBJECTS),
        help="digits: handwritten digits are recognised; regression: a curve is fitted to noisy "
        "points; alignment: soft, hard and local attention side by side; reinforce: hard attention "
        "learns where to look; translate: an encoder-decoder learns to write spoken dates, in half "
        "a minute (default: all but translate)",
    )
    parser.add_argument(
        "--output",
        metavar="PATH",
        type=Path,
        default=Path("foveate-demo.png"),
        help="where the pictures go: the subject is added to the name, and the ending names the "
        "format (default: %(default)s)",
    )
    parser.add_argument("--no-picture", action="store_true", help="draw nothing")
    parser.add_argument(
        "--seed",
        type=non_negative,
        default=0,
        help="chooses the unseen images, the noise and the sentences (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """Show one subject, or all short ones; returns 1 where an answer is not the reference's."""
    if not options.no_picture:
        require("matplotlib", "demo")
    passed = True
    for subject in [options.subject] if options.subject else SHORT:
        print(f"--- {subject} ".ljust(80, "-") + "\n")
        path = options.output.with_stem(f"{options.output.stem}-{subject}")
        passed &= SUBJECTS[subject](options.seed, None if options.no_picture else path)
        print()
    return 0 if passed else 1
