"""JSON and YAML from untrusted text: every fault is a ``ValueError`` of one line.

The parsers raise many other errors: RecursionError for deep nesting, IndexError for an empty ``!!int``,
AttributeError for a broken date. And a few hundred bytes of YAML can expand to millions of values.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from kdiga.errors import words_of
from kdiga.io.untrusted_file import read_text

MOST_VALUES = 20_000  # of a YAML file with its aliases expanded
LONGEST_NUMBER = 100  # characters; PyYAML takes quadratic time for 1:59:59:...
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
DEEPEST = 100  # levels of nesting of a YAML file; PyYAML needs seconds for a few thousand


def load_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        OSError: if it cannot be read.
        ValueError: for invalid JSON, too deep nesting, or half a surrogate pair, which cannot be encoded again.
    """
    return parse_json(read_text(path))


def parse_json(text: str) -> Any:
    """Return the content of JSON text; raises ValueError as :func:`load_json` does."""
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if "\\ud" in text or "\\uD" in text:
        json.dumps(found, ensure_ascii=False).encode()  # an UnicodeEncodeError is a ValueError
    return found


def parse_yaml(text: str) -> tuple[Any, yaml.Node | None]:
    """Return the content of YAML text, and its node tree with line numbers.

    Raises:
        ValueError: for invalid YAML, too many values, too deep nesting, or a value that contains itself.
    """
    loader = None
    try:
        loader = _ShallowLoader(text)
        node = loader.get_single_node()
        if node is not None and _size(node, {}) > MOST_VALUES:
            raise ValueError(f"it expands to more than {MOST_VALUES:,} values")
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
    elif len(node.value) > LONGEST_NUMBER and node.tag in NUMBERS:
        raise ValueError(f"a number has more than {LONGEST_NUMBER:,} characters")
    elif isinstance(node.value, str):
        node.value.encode()  # half a surrogate pair is an UnicodeEncodeError, which is a ValueError
    known[id(node)] = 1 + sum(_size(part, known) for part in inside)
    return known[id(node)]
