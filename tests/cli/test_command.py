"""Commands made from requests: every field is an option, and the help is quick and whole."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer

from kdiga.cli import app as application
from kdiga.cli import command as module
from kdiga.cli.output import Output
from kdiga.errors import InputError
from kdiga.workflows.options import Option, comma_separated
from tests.cli.test_cli import run

for name in application.COMMANDS:
    importlib.import_module(f"kdiga.cli.{name}")
GROUP = typer.main.get_command(application.app)


@dataclass(frozen=True, kw_only=True)
class Base:
    shared: Annotated[int, Option("A number.", least=1)] = 3


@dataclass(frozen=True, kw_only=True)
class Request(Base):
    places: Annotated[Sequence[Path], Option("Folders.", argument=True)]
    long_name: Annotated[Path | None, Option("A folder.", flags=("--folder", "-f"))] = None
    words: Annotated[Sequence[str], Option("Words.", read=comma_separated)] = ("a", "b")
    settings: Annotated[Sequence[str], Option("Settings.", flags=("--set",))] = ()
    switch: Annotated[bool, Option("A switch.")] = False
    choice: Annotated[bool | None, Option("Yes or no.", flags=("--choice/--no-choice",))] = None


@pytest.fixture
def called(monkeypatch):
    """Return what a command of the request is called with."""
    app, found = typer.Typer(), []
    monkeypatch.setattr(module, "app", app)

    @module.command()
    def example(request: Request, output: Output) -> None:
        """Do something."""
        found.append((request, output))

    def call(*arguments):
        app([*arguments], standalone_mode=False)
        return found.pop()

    return call


def test_defaults_are_those_of_the_dataclass(called):
    request, output = called("x")
    assert request == Request(places=(Path("x"),))
    assert (output.json_file, output.quiet) == (None, False)


def test_every_kind_of_value_arrives(called, tmp_path):
    given = ["x", "y", "-f", "z", "--words", "c, d", "--set", "k=1", "--set", "l=2", "--switch", "--no-choice"]
    request, output = called(*given, "--shared", "4", "--json", str(tmp_path / "r.json"), "-q")
    assert request == Request(
        places=(Path("x"), Path("y")),
        long_name=Path("z"),
        words=("c", "d"),
        settings=("k=1", "l=2"),
        switch=True,
        choice=False,
        shared=4,
    )
    assert (output.json_file, output.quiet) == (tmp_path / "r.json", True)


@pytest.mark.parametrize("arguments", [[], ["x", "--shared", "0"], ["x", "--shared", "two"], ["x", "--long-name", "z"]])
def test_what_is_not_declared_is_refused(called, arguments):
    with pytest.raises(application.UsageError):
        called(*arguments)


def test_a_json_file_that_cannot_be_is_refused_before_the_command(called, tmp_path):
    with pytest.raises(InputError, match="which is a folder"):
        called("x", "--json", str(tmp_path))


def test_the_help_lists_every_command_in_one_whole_line(tmp_path):
    shown = run("--help", cwd=tmp_path)
    assert "..." not in shown.partition("Commands:")[2]
    for name, command in GROUP.commands.items():
        assert len(command.short_help) <= module.LONGEST_SUMMARY, name
        assert f"  {name:8}  {command.short_help}\n" in shown


HELP = """
import contextlib, io, sys
from kdiga.cli import main
slow = {"torch", "numpy", "yaml", "jinja2", "rich.console", "multiprocessing"}
for command in sys.argv[1:]:
    shown, sys.argv = io.StringIO(), ["kdiga", *command.split(), "--help"]
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        main()
    assert "Usage: " + " ".join(["kdiga", *command.split()]) in shown.getvalue(), command
    typers = set() if command else {"pydantic", "importlib.metadata"}  # Typer itself loads them for a command
    assert not (slow | typers) & set(sys.modules), (command, (slow | typers) & set(sys.modules))
"""


def test_help_waits_for_no_slow_package():
    arguments = [sys.executable, "-c", HELP, "", *GROUP.commands]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
