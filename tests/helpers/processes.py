"""Code in processes of its own: what it prints, and that it ends, by itself or by Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

# What a machine that is shared may take for what needs a moment.
PATIENCE = 60


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, with the ISA of this run and no number of threads set."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("OMP_NUM_THREADS", "FOVEATE_NUM_THREADS")
    }
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def output_of(code: str, **environment: str) -> str:
    done = python(code, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def wait_for(child: int) -> int:
    """The exit code of a child, which is killed if it hangs."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("the forked child hangs")


def stop_by_ctrl_c(code: str, *options: str, within: float = 2) -> None:
    """Run code that says "ready", is interrupted, says "stopped", and exits with 7."""
    with subprocess.Popen(
        [sys.executable, *options, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            time.sleep(0.5)
            assert child.poll() is None, "the call was over before it could be stopped"
            begin = time.monotonic()
            child.send_signal(signal.SIGINT)
            assert child.stdout.readline() == "stopped\n"
            assert time.monotonic() - begin < within
            assert child.wait(PATIENCE) == 7
        finally:
            child.kill()
