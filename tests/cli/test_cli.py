"""The command line: what it prints, what it returns, what it draws; and the errors of its users."""

from __future__ import annotations

import contextlib
import re
import shlex
import sys
from types import SimpleNamespace

import foveate as fv
import pytest
from foveate._cli import COMMANDS, MissingPackageError, bench, demo, main, require
from foveate._cli.peers import CONTENDERS
from foveate._cli.workloads import WORKLOADS, Workload, select
from foveate._runtime.install import install


def test_info_says_which_instruction_set_runs(capsys):
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert fv.show_config(mode="dicts").keys() <= {line.strip() for line in printed.splitlines()}


def test_without_a_command_it_says_what_there_is(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert all(command in printed for command in ("demo", "bench", "info", "in use:"))
    assert len(re.findall("^  python -m foveate (?!COMMAND)", printed, re.MULTILINE)) == 3
    assert max(map(len, printed.splitlines())) <= 80


def lines_to_try(capsys, *words: str) -> list[list[str]]:
    """The arguments of each example that is printed for these."""
    with pytest.raises(SystemExit) if words else contextlib.nullcontext() as stopped:
        main(words)
    assert stopped is None or stopped.value.code == 0
    printed = capsys.readouterr().out
    found = re.findall("^  python -m foveate (?!COMMAND)(.*?)(?:   .*)?$", printed, re.MULTILINE)
    return [shlex.split(line) for line in found]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_examples_of_the_help_run(capsys, monkeypatch, tmp_path, command):
    """To the door of what would take long: the table of workloads, and the scripts."""
    asked = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "_measure", lambda *_: asked.append("bench") or {"workloads": []})
    ran = SimpleNamespace(run=lambda *_: asked.append("demo") or True)
    monkeypatch.setattr(demo, "script", lambda _: ran)
    monkeypatch.setattr(bench, "require", lambda *_, **__: None)
    monkeypatch.setattr(demo, "require", lambda *_, **__: None)
    monkeypatch.setitem(
        sys.modules, "foveate._cli.chart", SimpleNamespace(draw_bars=lambda *_: None)
    )
    examples = lines_to_try(capsys, *([command, "--help"] if command else []))
    assert examples
    for words in examples:
        assert not command or words[0] == command
        asked.clear()
        assert main(words) == 0
        assert words[0] == "info" or words[0] in asked


def test_the_list_has_the_names_of_the_results(capsys):
    assert main(["bench", "--list"]) == 0
    lines = capsys.readouterr().out.partition("contenders:")[2].splitlines()
    names = [line.split()[0] for line in lines if line]
    assert names == [contender.name for contender in CONTENDERS]
    assert len(set(names)) == len(names)


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
    with pytest.raises(MissingPackageError, match=rf"needs scikit-none.*{command}$"):
        require("package_that_is_nowhere", "demo", "scikit-none")


def test_without_matplotlib_the_demo_says_what_goes(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["demo", "regression"]) == 1
    printed = capsys.readouterr()
    assert "--no-picture" in printed.err
    assert printed.out == ""
    assert main(["demo", "regression", "--no-picture"]) == 0


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
