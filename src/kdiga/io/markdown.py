"""Escaping for Markdown: names, messages and paths stay plain text.

>>> print(safe("<script> [x](y)"), code("a`b"))
&lt;script> [x]&#40;y) `a'b`
"""

from __future__ import annotations

import re

_MARKS = {"|": "\\|", "<": "&lt;", "`": "\\`", "](": "]&#40;"}


def safe(text: object) -> str:
    """Return a text for a line or a table cell: no cell, code, link or tag begins in it."""
    for mark, written in _MARKS.items():
        text = str(text).replace(mark, written)
    return one_line(str(text))


def code(text: object) -> str:
    """Return a text as inline code; a backtick, which would end it, becomes a quote."""
    return f"`{one_line(str(text)).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def one_line(text: str) -> str:
    """Return a text without line breaks."""
    return " ".join(text.splitlines())


def fenced(text: str, language: str) -> str:
    """Return a code block, in a fence longer than any fence in the text."""
    longest = max((len(found) for found in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
