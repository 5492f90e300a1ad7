"""The command line has the commands and options that are written down in commands.json."""

from __future__ import annotations

import json

import pytest

from tests.api.commands import FILE, commands

HOW = "Undo the change, or run `python -m tests.api.commands > tests/api/commands.json` and name it in CHANGELOG.md."
WRITTEN = json.loads(FILE.read_text())


@pytest.fixture(scope="module")
def found():
    return json.loads(json.dumps(commands()))


def test_the_commands_are_those_written_down(found):
    assert list(found) == list(WRITTEN), HOW


@pytest.mark.parametrize("name", WRITTEN)
def test_a_command_has_the_options_written_down(found, name):
    assert found[name] == WRITTEN[name], HOW


def test_every_option_says_what_it_is(found):
    parameters = [one for about in found.values() for one in about["parameters"]]
    assert len(parameters) > 200
    assert all(one["names"] and one["type"] for one in parameters)
