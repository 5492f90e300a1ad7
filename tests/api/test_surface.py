"""Nothing public changes without somebody having meant it."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

import pytest

import kdiga
from tests.api.surface import FILE, lines

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
HOW = (
    "The public surface changed. Undo it, or mean it: docs/api.md says what may change in which release. Then run "
    "`python -m tests.api.surface > tests/api/surface.txt` and name the change in CHANGELOG.md."
)


def test_the_public_surface_is_the_one_written_down():
    wrote, found = FILE.read_text().splitlines(), list(lines())
    changes = list(difflib.unified_diff(wrote, found, "surface.txt", "code", lineterm="", n=0))
    if changes:
        pytest.fail("\n".join([HOW, *changes]), pytrace=False)


def test_what_is_written_down_is_the_same_everywhere():
    """No address in memory, no path of a machine."""
    assert not re.search(r"0x[0-9a-f]{6}|/home|/work|object at", FILE.read_text())


def test_the_page_has_one_line_for_every_name():
    told = re.findall(r"^\| `(\w+)` \|", PAGE, re.M)
    assert sorted(told) == sorted(kdiga.__all__)


@pytest.mark.parametrize("name", kdiga.__all__)
def test_a_public_name_says_what_it_is(name):
    assert (getattr(kdiga, name).__doc__ or "").strip()
