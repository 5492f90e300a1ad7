"""Streams and signals as other systems have them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from kdiga.cli.app import _in_plain_characters
from kdiga.training.interruption import CONTINUE, SAVE, Interruption

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "0"}


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "ascii"])
def test_any_text_can_be_printed_in_any_encoding(encoding):
    text = "\\u22121.7 \\u0142 x\\u2264y"
    command = f"from kdiga.cli.app import _prepare_streams; _prepare_streams(); print('{text}')"
    environment = ENVIRONMENT | {"PYTHONIOENCODING": encoding}
    found = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, check=True)
    assert found.stdout == b"-1.7 \\u0142 x<=y\n"


def test_only_encoding_errors_are_handled():
    error = UnicodeDecodeError("ascii", b"\xff", 0, 1, "no")
    with pytest.raises(UnicodeDecodeError):
        _in_plain_characters(error)


def test_a_closed_stdout_is_no_error():
    found = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m kdiga methods >&-"], env=ENVIRONMENT, capture_output=True, check=False
    )
    assert (found.returncode, found.stderr) == (0, b"")
    found = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m kdiga methods --json - >&-"],
        env=ENVIRONMENT,
        capture_output=True,
        check=False,
    )
    assert found.returncode == 2
    assert b"stdout is closed" in found.stderr


@pytest.mark.parametrize("ignored", [False, True])
def test_a_closed_terminal_ends_a_command_as_sigterm_does(ignored):
    command = (
        "import os, signal, sys\n"
        f"signal.signal(signal.SIGHUP, signal.{'SIG_IGN' if ignored else 'SIG_DFL'})\n"
        "import kdiga.cli.app as app\n"
        "app.COMMANDS = ()\n"
        "app.app = lambda **options: os.kill(os.getpid(), signal.SIGHUP)\n"
        "app.main()\n"
    )
    found = subprocess.run([sys.executable, "-c", command], env=ENVIRONMENT, capture_output=True, check=False)
    assert found.returncode == (0 if ignored else 128 + signal.SIGHUP)
    assert (b"ended by SIGHUP" in found.stderr) != ignored


def test_a_closed_terminal_is_a_signal_that_ends_a_run_and_no_request_to_save():
    interruption = Interruption(save_every=0.0)
    with interruption.listening():
        assert interruption.request() == CONTINUE
        signal.raise_signal(signal.SIGHUP)
    assert interruption.request() == signal.SIGHUP
    assert CONTINUE < SAVE < signal.SIGHUP
