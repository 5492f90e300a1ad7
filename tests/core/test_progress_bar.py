"""Progress of the functions in Python: who sees a bar, and who sees nothing."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest

from kdiga import progress_bar
from kdiga.progress_bar import progress_of


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(wanted: object, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress_bar, "LINE_EVERY", 0.0)
    with progress_of(wanted, "evaluate") as on_progress:
        if on_progress is not None:
            on_progress("pgd-20", 1, 2)
    return bool(stream.getvalue())


@pytest.mark.parametrize(
    ("wanted", "stream", "expected"),
    [
        (None, io.StringIO, False),
        (None, Terminal, True),
        (False, Terminal, False),
        (True, io.StringIO, True),
        (lambda *_: None, Terminal, False),
    ],
)
def test_a_bar_is_for_terminals(wanted, stream, expected, monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm")
    assert shown(wanted, stream(), monkeypatch) == expected
    assert capsys.readouterr().out == "", "stdout belongs to the caller"


def test_a_notebook_gets_its_own_bar_which_goes(monkeypatch):
    drawn: list[str] = []
    handle = SimpleNamespace(update=drawn.append)
    display = SimpleNamespace(HTML=str, display=lambda html, display_id: drawn.append(html) or handle)
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell, display=display))
    assert not shown(None, io.StringIO(), monkeypatch)
    assert drawn == ["", '<progress value="1" max="2"></progress> evaluate  pgd-20 1/2', ""]
