"""Code in processes of its own: what it prints, and that it ends, by itself or by Ctrl-C.

And marks of tests that need what not every system has.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
needs_tasks = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="the list of a process's threads is Linux's"
)
needs_peak_memory = pytest.mark.skipif(
    sys.platform != "linux", reason="the peak of memory in KiB is Linux's"
)

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
    """Run code that says "ready", is interrupted, says "stopped", and exits with 7.

    On Windows by Ctrl-Break, with the handler of Ctrl-C: a group of processes gets no Ctrl-C.
    """
    code, group, ctrl_c = textwrap.dedent(code), 0, signal.SIGINT
    if sys.platform == "win32":
        code = f"import signal\nsignal.signal(signal.SIGBREAK, signal.default_int_handler)\n{code}"
        group, ctrl_c = subprocess.CREATE_NEW_PROCESS_GROUP, signal.CTRL_BREAK_EVENT
    with subprocess.Popen(
        [sys.executable, *options, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        creationflags=group,
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            time.sleep(0.5)
            assert child.poll() is None, "the call was over before it could be stopped"
            begin = time.monotonic()
            child.send_signal(ctrl_c)
            assert child.stdout.readline() == "stopped\n"
            assert time.monotonic() - begin < within
            assert child.wait(PATIENCE) == 7
        finally:
            child.kill()
