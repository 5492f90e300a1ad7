"""Names, messages and paths in Markdown: they stay text, whatever they hold.

>>> print(safe("<script> [x](y)"), code("a`b"))
&lt;script> [x]&#40;y) `a'b`
"""

from __future__ import annotations

import re

_MARKS = {"|": "\\|", "<": "&lt;", "`": "\\`", "](": "]&#40;"}


def safe(text: object) -> str:
    """Return a text as a part of a line or a table's cell: no cell, code, link or tag begins in it."""
    for mark, written in _MARKS.items():
        text = str(text).replace(mark, written)
    return one_line(str(text))


def code(text: object) -> str:
    """Return a text as code within a line; a backtick, which would end it, becomes a quote."""
    return f"`{one_line(str(text)).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def one_line(text: str) -> str:
    """Return a text without ends of lines."""
    return " ".join(text.splitlines())


def fenced(text: str, language: str) -> str:
    """Return a block of code, in a fence longer than any in it."""
    longest = max((len(found) for found in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
