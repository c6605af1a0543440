"""The command line: what it prints, what it returns, what it draws; and the errors of its users."""

from __future__ import annotations

import re

import foveate as fv
import pytest
from foveate._cli import MissingPackageError, main, require
from foveate._cli.workloads import WORKLOADS, Workload, select
from foveate._runtime.install import install


def test_info_says_which_instruction_set_runs(capsys):
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert fv.show_config(mode="dicts").keys() <= {line.strip() for line in printed.splitlines()}


def test_without_a_command_it_says_what_there_is(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert all(command in printed for command in ("demo", "bench", "in use:"))


def test_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"foveate {fv.__version__}\n"


def test_unknown_subject_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "weather"])
    assert stopped.value.code == 2
    assert "'weather'" in capsys.readouterr().err


def test_missing_package_says_how_to_get_it():
    command = re.escape(install("demo", "-m pip"))
    with pytest.raises(MissingPackageError, match=rf"needs scikit-none.*{command}"):
        require("package_that_is_nowhere", "demo", "scikit-none")


def test_workloads_are_selected_by_name():
    assert [one.name for one in select(["decode-*-1x32768"], WORKLOADS)] == [
        "decode-float32-1x32768",
        "decode-bfloat16-1x32768",
    ]
    with pytest.raises(ValueError, match="no workload is called 'nothing'"):
        select(["nothing"], WORKLOADS)


def test_work_of_a_workload():
    assert Workload("full", 1, 2, 3, 4).work == 4 * 2 * 4 * 9
    assert Workload("causal", 1, 2, 4, 4, causal=True).work == 4 * 2 * 4 * 8
    assert Workload("window", 1, 1, 4, 1, window=(1, 0)).work == 4 * (1 + 2 + 2 + 2)
    decode = Workload("decode", 2, 4, 1, 8, dtype="bfloat16", kv_heads=2, key_length=5, peak="read")
    assert decode.work == 2 * (2 * 2 * 5 * 8) * 2  # keys and values, 2 bytes each
    assert (decode.format_speed(0.833), decode.format_speed(0.0061)) == ("83%", "0.6%")
