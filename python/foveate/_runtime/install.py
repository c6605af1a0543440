"""The command that installs what an optional part of foveate needs: hints take it from here."""

from __future__ import annotations

# Whether `foveate` on the package index is this project. Until then `pip install foveate` would
# install nothing, or what somebody else put there; README.md says the same command.
ON_INDEX = False


def install(extra: str, pip: str = "pip") -> str:
    """Return the command for an extra of pyproject.toml, in quotes that every shell takes."""
    if ON_INDEX:
        return f'{pip} install "foveate[{extra}]"'
    return f'{pip} install ".[{extra}]" (in the folder of its sources)'
