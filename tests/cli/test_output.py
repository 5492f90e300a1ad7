"""What goes to stdout, to stderr and to a file, and the exit status."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

import kdiga.cli.app as application
from kdiga.cli.output import Output, in_json
from kdiga.cli.printing import say, show_table
from kdiga.errors import DivergedError, InputError, InterruptedRunError
from kdiga.progress_bar import TaskBar
from tests.cli.test_cli import NOWHERE, run


class Terminal(io.StringIO):
    """Takes itself for a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def streams(monkeypatch):
    """What puts streams, which are no terminals, in place of stdout and stderr; the environment has no say."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_INTERACTIVE", "TTY_COMPATIBLE", "WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)

    def replace(out=None):
        # In the test itself: between its phases pytest sets the streams anew.
        out, err = out or io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        return out, err

    return replace


def work(output):
    """Do what a command does: a word, progress, a table, a result."""
    say(output.console, "said", style="yellow")
    with TaskBar(output.console, "RUN", clock=iter(range(0, 1000, 61)).__next__) as progress:
        for done in range(3):
            progress("pgd", done, 3)
    show_table(output.console, ["heading"], [])
    sys.stdout.write("from a library\n")
    output.result({"accuracy": 0.5}, Path("kept"))


def test_json_on_stdout_is_alone_there(streams):
    out, err = streams()
    work(Output(Path("-")))
    assert json.loads(out.getvalue()) == {"accuracy": 0.5}
    for told in ("said", "RUN", "heading", "from a library"):
        assert told in err.getvalue()


def test_a_file_gets_the_same_and_its_folder_is_made(streams, tmp_path):
    out, _ = streams()
    work(Output(tmp_path / "new/result.json"))
    assert json.loads((tmp_path / "new/result.json").read_text()) == {"accuracy": 0.5}
    assert "said" in out.getvalue()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["result.json"]


def test_quiet_leaves_the_place_of_the_result(streams):
    out, err = streams()
    work(Output(quiet=True))
    assert out.getvalue() == "from a library\nkept\n"
    assert err.getvalue() == ""
    terminal, _ = streams(Terminal())
    work(Output(quiet=True))
    assert terminal.getvalue() == "from a library\nkept\n"  # no bar, either


def test_quiet_and_json_on_stdout_leave_the_document(streams):
    out, _ = streams()
    work(Output(Path("-"), quiet=True))
    assert json.loads(out.getvalue()) == {"accuracy": 0.5}


def test_of_several_processes_the_first_speaks_and_writes(streams, monkeypatch, tmp_path):
    out, _ = streams()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    work(Output(tmp_path / "result.json"))
    assert out.getvalue() == "from a library\n"
    assert not (tmp_path / "result.json").exists()


def test_a_pipe_gets_no_escape_codes(streams):
    out, _ = streams()
    work(Output())
    assert "\x1b" not in out.getvalue()
    assert "\r" not in out.getvalue()
    assert "RUN  pgd 1/3" in out.getvalue()


def test_forced_colours_draw_no_bar_in_a_log(streams, monkeypatch):
    out, _ = streams()
    monkeypatch.setenv("FORCE_COLOR", "1")
    work(Output())
    assert "\r" not in out.getvalue()
    assert "\x1b[?25" not in out.getvalue()  # of a hidden cursor
    assert "\x1b[33m" in out.getvalue()  # as asked


@pytest.mark.parametrize("plain", [True, False])
def test_no_color_is_respected(streams, monkeypatch, plain):
    terminal, _ = streams(Terminal())
    monkeypatch.setenv("TERM", "xterm-256color")
    if plain:
        monkeypatch.setenv("NO_COLOR", "1")
    say(Output().console, "said", style="yellow")
    assert ("\x1b[33m" in terminal.getvalue()) == (not plain)


@pytest.mark.parametrize("place", [".", "file/result.json", "/proc/result.json"])
def test_a_json_file_that_cannot_be_is_refused_at_once(streams, monkeypatch, tmp_path, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    if place.startswith("/proc"):
        monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(InputError, match=r"--json was .*give a file in a folder that can be written, or - for stdout"):
        Output(Path(place))


def test_json_has_no_word_for_what_is_not_finite():
    given = {"a": [1.0, math.inf, (math.nan, "x")], "path": Path("p")}
    assert json.loads(in_json(given)) == {"a": [1.0, None, [None, "x"]], "path": "p"}


def test_json_of_a_failure_is_empty(tmp_path):
    error = run("methods", "rsla", "--json", "-", cwd=tmp_path, expect=2)
    assert "did you mean rslad" in error
    assert json.loads(run("methods", "rslad", "--json", "-", cwd=tmp_path))["name"] == "rslad"


def test_stdout_is_put_back(monkeypatch, streams):
    monkeypatch.setattr(application, "app", lambda **_: work(Output(Path("-"))))
    out, _ = streams()
    with pytest.raises(SystemExit):
        application.main()
    assert sys.stdout is out


MISTYPED = {
    ("evalute",): "command 'evalute' is not known; did you mean evaluate? See kdiga --help.",
    ("--hlp",): "option '--hlp' is not known; did you mean --help? See kdiga --help.",
    ("evaluate", "x", "--jsn", "y"): "option '--jsn' is not known; did you mean --json? See kdiga evaluate --help.",
    ("train", "--overwirte"): "option '--overwirte' is not known; did you mean --overwrite? See kdiga train --help.",
    ("train", "--zzzzz"): "option '--zzzzz' is not known. See kdiga train --help.",
    ("train", "a", "b"): "Got unexpected extra argument(s) (b). See kdiga train --help.",
}


@pytest.mark.parametrize("arguments", MISTYPED)
def test_a_mistyped_word_names_the_right_one(arguments, tmp_path):
    assert run(*arguments, cwd=tmp_path, expect=2) == f"kdiga: {MISTYPED[arguments]}\n"


def test_nothing_at_all_shows_the_help(tmp_path):
    assert run(cwd=tmp_path, expect=2).startswith("Usage: kdiga ")


STATUS = {
    0: None,
    1: DivergedError("the loss"),
    2: InputError("was x"),
    130: KeyboardInterrupt(),
    143: InterruptedRunError(15, "ended"),
}


@pytest.mark.parametrize("status", STATUS)
def test_how_a_command_ends(status, monkeypatch, streams):
    def command(**_):
        if STATUS[status] is not None:
            raise STATUS[status]

    monkeypatch.setattr(application, "app", command)
    _, err = streams()
    with pytest.raises(SystemExit) as ended:
        application.main()
    assert (ended.value.code or 0) == status
    assert len(err.getvalue().splitlines()) == (status > 0)


@pytest.mark.parametrize(
    ("number", "status", "told"),
    [
        (errno.EIO, 1, "Input/output error: runs/x"),
        (
            errno.ENOSPC,
            1,
            "'runs/x' cannot be written (No space left on device); its earlier content is unchanged. Make "
            "room and give the same command again; `kdiga train` continues with --resume.",
        ),
        (
            errno.EROFS,
            2,
            "'runs/x' cannot be written (Read-only file system); its earlier content is unchanged. Choose a "
            "folder that can be written.",
        ),
    ],
)
def test_an_error_of_the_system_is_one_line(number, status, told, monkeypatch, streams):
    def command(**_):
        raise OSError(number, os.strerror(number), "runs/x")

    monkeypatch.setattr(application, "app", command)
    _, err = streams()
    with pytest.raises(SystemExit, match=str(status)):
        application.main()
    assert err.getvalue() == f"kdiga: {told}\n"


@pytest.mark.parametrize("arguments", [["data"], ["data", "--json", "-"], ["--help"]])
def test_a_reader_that_has_gone_is_no_traceback(arguments, tmp_path):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "kdiga", *arguments],
        cwd=tmp_path,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env=os.environ | {name: value.format(cwd=tmp_path) for name, value in NOWHERE.items()},
    )
    os.close(write)
    assert done.returncode == 1
    assert "kdiga:" not in done.stderr
    assert "Broken" not in done.stderr
