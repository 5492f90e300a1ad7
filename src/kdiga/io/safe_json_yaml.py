"""Plain data out of text that anybody may have written: whatever is wrong with it is a ``ValueError`` in one line.

The parsers themselves raise nearly everything: RecursionError for what is nested too deep, IndexError for an empty
``!!int``, AttributeError for a broken date; and a few hundred bytes of YAML can stand for millions of values.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from kdiga.errors import words_of

MOST = 20_000  # values that a YAML file may stand for, aliases written out
DEEPEST = 100  # levels of nesting of a YAML file; PyYAML needs seconds for a few thousand


def load_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no JSON, is nested too deep, or holds half a character, which no file can hold again.
    """
    return parse_json(path.read_text())


def parse_json(text: str) -> Any:
    """Return what JSON text holds; raises ValueError as :func:`load_json` does."""
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if "\\ud" in text or "\\uD" in text:
        json.dumps(found, ensure_ascii=False).encode()  # an UnicodeEncodeError is a ValueError
    return found


def parse_yaml(text: str) -> tuple[Any, yaml.Node | None]:
    """Return what YAML text holds, and its tree with the lines.

    Raises:
        ValueError: if it is no YAML, stands for too much, or for something that contains itself.
    """
    loader = None
    try:
        loader = _ShallowLoader(text)
        node = loader.get_single_node()
        if node is not None and _size(node, {}) > MOST:
            raise ValueError(f"it stands for more than {MOST:,} values")
        return (None if node is None else loader.construct_document(node)), node
    except (yaml.YAMLError, LookupError, AttributeError, TypeError, ArithmeticError) as error:
        raise ValueError(words_of(error, 400)) from None
    finally:
        if loader is not None:
            loader.dispose()


class _ShallowLoader(yaml.SafeLoader):
    """PyYAML's safe loader, with a limit on nesting."""

    def __init__(self, text: str) -> None:
        self.depth = 0
        super().__init__(text)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > DEEPEST:
            raise ValueError("it is nested too deep")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    if id(node) in known:
        if not known[id(node)]:
            raise ValueError("a value contains itself")
        return known[id(node)]
    known[id(node)] = 0
    inside: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        inside = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        inside = list(node.value)
    elif isinstance(node.value, str):
        node.value.encode()  # half a character is an UnicodeEncodeError, which is a ValueError
    known[id(node)] = 1 + sum(_size(part, known) for part in inside)
    return known[id(node)]
