"""The command: starts workers, watches them, prints what they find. See the package's docstring."""

from __future__ import annotations

import argparse
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PLACES = [HERE.parent, HERE.parent / "helpers"]
sys.path[:] = [*map(str, PLACES), *(x for x in sys.path if Path(x or ".").resolve() != HERE)]

HANG = 60.0  # seconds that a case may take


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("tests/fuzz", description=__doc__)
    parser.add_argument("--seed", type=lambda x: int(x, 0), default=0, help="of the whole run")
    parser.add_argument(
        "--seconds", type=float, default=0.0, help="how long (60, or with --calls endless)"
    )
    parser.add_argument("--calls", type=int, default=0, help="how many calls of foveate in all")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--functions", default="", help="names, with commas; all by default")
    parser.add_argument("--isa", default="", help="one instruction set, not all in turn")
    parser.add_argument("--show", type=int, default=1, help="findings of one kind to make simpler")
    parser.add_argument("--replay", default="", help="the seed of a case to run again")
    parser.add_argument("--fix", default="", help="choices of a replay: NAME=PLACE,...")
    parser.add_argument("--traceback", action="store_true", help="let a replay's error through")
    parser.add_argument("--planted", action="store_true", help="find defects that are planted")
    parser.add_argument("--crash", action="store_true", help="crash in the tenth case, for a test")
    parser.add_argument("--state", help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--step", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.seconds:
        options.seconds = 60.0 if not options.calls else 1e9
    options.calls = options.calls or 1 << 62
    return options


class Worker:
    """A process that works, started again behind the case at which it died."""

    def __init__(self, options: Any, number: int, folder: str) -> None:
        self.options, self.number, self.folder = options, number, folder
        self.first, self.calls, self.cases = number, 0, 0
        self.path = Path(folder) / f"state-{number}"
        self.errors = Path(folder) / f"errors-{number}"
        self.deadline = time.monotonic() + options.seconds
        self.share = -(-options.calls // options.workers)
        self.start()

    def start(self) -> None:
        from fuzz.worker import STATE, State

        self.path.write_bytes(STATE.pack(self.first, 0, 0))
        self.state = State(str(self.path))
        left = self.deadline - time.monotonic()
        given = vars(self.options) | {"seconds": max(left, 0.1), "calls": self.share - self.calls}
        command = [sys.executable, "-u", str(HERE), "--state", str(self.path)]
        command += ["--first", str(self.first), "--step", str(self.options.workers)]
        for name in ("seed", "seconds", "calls", "functions", "isa", "show"):
            command += [f"--{name}", str(given[name])]
        if self.options.crash and self.first < self.options.workers:
            command += ["--crash"]
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        self.at, self.since = -1, time.monotonic()

    def is_stuck(self) -> bool:
        number = self.state.read()[0]
        if number != self.at:
            self.at, self.since = number, time.monotonic()
        return time.monotonic() - self.since > HANG

    def ended(self) -> dict[str, Any] | None:
        """What the end of the process tells: a finding where it was none of its own."""
        status = self.process.wait()
        number, seed, calls = self.state.read()
        self.calls += calls
        self.cases += (number - self.first) // self.options.workers
        if status == 0:
            return None
        self.first = number + self.options.workers
        name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        if self.process.returncode == -signal.SIGKILL:
            name = f"no end after {HANG:.0f} s"
        lines = self.errors.read_text(errors="replace").splitlines()
        lines = [x for x in lines if x.strip() and not x.startswith("Extension modules")]
        from fuzz.case import Case
        from fuzz.functions import function_of

        function = function_of(Case(seed)) if seed else "start"
        return {
            "seed": seed,
            "function": function,
            "message": name,
            "kind": f"{function}: {name}",
            "worker": self,
            "errors": "\n".join(lines[:40]),
        }

    def last_call(self, seed: int) -> str:
        """The call at which a seed dies."""
        command = [sys.executable, str(HERE), "--replay", hex(seed), "--isa", self.options.isa]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=HANG, check=False
            )
            lines = done.stderr.splitlines()
        except subprocess.TimeoutExpired as error:
            lines = (error.stderr or b"").decode(errors="replace").splitlines()
        calls = [line for line in lines if "  # isa " in line]
        return calls[-1] if calls else ""


def show(finding: dict[str, Any], isa: str) -> None:
    fixed = ",".join(f"{name}={place}" for name, place in finding.get("fixed", {}).items())
    print(f"\n{finding['function']}: {finding['message']}")
    if finding.get("call"):
        if finding.get("simplest") not in (None, finding["message"]):
            print(f"  made simpler: {finding['simplest']}")
        print(f"  {finding['call']}")
    if finding.get("left"):
        print("  " + ", ".join(f"{name}: {x}" for name, x in finding["left"].items()))
    command = f"  python tests/fuzz --replay {finding['seed']:#x}"
    command += f" --isa {isa}" if isa else ""
    print(command + (f' --fix "{fixed}"' if fixed else ""))
    if finding.get("errors"):
        print("  " + "\n  ".join(finding["errors"].splitlines()))
    sys.stdout.flush()


def watch(options: argparse.Namespace) -> int:
    began = time.monotonic()
    kinds: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        workers = [Worker(options, n, folder) for n in range(options.workers)]
        selector = selectors.DefaultSelector()
        for worker in workers:
            selector.register(worker.process.stdout, selectors.EVENT_READ, worker)

        def found(finding: dict[str, Any]) -> None:
            kinds[finding["kind"]] = kinds.get(finding["kind"], 0) + 1
            if kinds[finding["kind"]] <= options.show:
                if "worker" in finding and finding["seed"]:
                    finding["call"] = finding["worker"].last_call(finding["seed"])
                show(finding, options.isa)

        told = began
        try:
            while selector.get_map():
                for key, _ in selector.select(timeout=1.0):
                    worker = key.data
                    line = key.fileobj.readline()
                    if line:
                        found(json.loads(line))
                        continue
                    selector.unregister(key.fileobj)
                    finding = worker.ended()
                    if finding is not None:
                        found(finding)
                        if finding["seed"] and time.monotonic() < worker.deadline:
                            worker.start()
                            selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
                for worker in workers:
                    if worker.process.poll() is None and worker.is_stuck():
                        worker.process.kill()
                if sys.stderr.isatty() and time.monotonic() - told > 0.5:
                    told = time.monotonic()
                    running = [w.state.read()[2] for w in workers if w.process.poll() is None]
                    calls = sum(w.calls for w in workers) + sum(running)
                    rate = calls / (told - began)
                    line = f"{calls:,} calls, {rate:,.0f} a second, {sum(kinds.values())} findings"
                    print(f"\r{line}", end="  ", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            for worker in workers:
                worker.process.kill()
        cases, calls = sum(w.cases for w in workers), sum(w.calls for w in workers)
    seconds = time.monotonic() - began
    rate = f"{calls / seconds:,.0f} calls a second"
    print(f"\n{calls:,} calls in {cases:,} cases, {seconds:.0f} s, {rate}")
    for kind, count in sorted(kinds.items(), key=lambda pair: -pair[1]):
        print(f"  {count} x {kind}")
    if not kinds:
        print("nothing found")
    return int(bool(kinds))


def main() -> int:
    options = arguments()
    from fuzz.setting import set_environment

    if set_environment():
        os.execv(sys.executable, [sys.executable, str(HERE), *sys.argv[1:]])
    from fuzz.functions import FUNCTIONS

    names = options.functions.split(",") if options.functions else list(FUNCTIONS)
    if unknown := set(names) - FUNCTIONS.keys():
        print(f"--functions: got {sorted(unknown)}, wanted some of {list(FUNCTIONS)}")
        return 2
    if options.state:
        from fuzz.worker import work

        options.functions = names
        work(options)
        return 0
    if options.planted:
        from fuzz.planted import find_all

        return find_all()
    if options.replay:
        from fuzz.worker import replay

        return replay(options)
    return watch(options)


if __name__ == "__main__":
    sys.exit(main())
