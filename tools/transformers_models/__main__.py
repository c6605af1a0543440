"""Try every type of model that the installed transformers has, tiny, and write what became of each.

    python tools/transformers_models results.jsonl [--part 1/2] [type ...]
    python tools/transformers_models --table results.jsonl docs/transformers_models.md

A process for each type, one thread, so much memory and processor time at most; types that are in
the file of results are not tried again, unless they are named. Parts may run at once.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

SECONDS, BYTES = 40, 6 << 30
MOST_SECONDS = 600  # by the clock


def _child(kind: str, to: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        from examine import examine

        answer = examine(kind)
    except BaseException as error:
        answer = {
            "kind": kind,
            "result": "not built",
            "why": f"{type(error).__name__}: {error}"[:160],
        }
    os.write(to, json.dumps(answer).encode())
    os._exit(0)


def _try(kind: str) -> dict[str, Any]:
    """Examine a type in a forked process, which has all imports already."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _child(kind, write)
    os.close(write)
    end = time.monotonic() + MOST_SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.05)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)
        return {"kind": kind, "result": "not built", "why": f"more than {MOST_SECONDS} seconds"}
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    if not answer and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        why = f"more than {SECONDS} seconds of a processor"
        return {"kind": kind, "result": "not built", "why": why}
    if not answer:
        return {"kind": kind, "result": "died", "why": f"status {status}"}
    found: dict[str, Any] = json.loads(answer)
    return found


def main(path: Path, kinds: list[str], part: int = 0, parts: int = 1) -> None:
    """Try the types that have no result yet, or those that are named."""
    import examine  # noqa: F401  (the children have it)
    import foveate.transformers
    import torch
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    torch.set_num_threads(1)
    foveate.transformers.register()
    known = set()
    if path.exists():
        known = {json.loads(x)["kind"] for x in path.read_text().splitlines()}
    for kind in kinds or list(CONFIG_MAPPING_NAMES)[part::parts]:
        if kind in known and not kinds:
            continue
        start = time.monotonic()
        answer = {**_try(kind), "seconds": round(time.monotonic() - start, 1)}
        with path.open("a") as file:
            file.write(json.dumps(answer) + "\n")
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--table":
        from table import write

        write(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        named, chosen = sys.argv[2:], (0, 1)
        if named[:1] == ["--part"]:
            number, count = (int(x) for x in named[1].split("/"))
            named, chosen = named[2:], (number - 1, count)
        main(Path(sys.argv[1]), named, *chosen)
