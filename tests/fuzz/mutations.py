"""Damage to files: to the tree that a structured file holds, to its text, and to its bytes.

Every choice is drawn from a ``random.Random``, which may be hypothesis's or fed by a coverage-guided fuzzer.
"""

from __future__ import annotations

import copy
import functools
import json
from contextlib import suppress
from random import Random
from typing import Any

import yaml

DEEP = 3000  # levels of nesting, more than Python recurses
FOREIGN = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    7,
    10**9,
    2**63,
    10**400,
    0.5,
    -0.0,
    1e308,
    1e-320,
    float("nan"),
    float("inf"),
    float("-inf"),
    "",
    "x",
    "0",
    "-1",
    "1e999999999",
    "1e-999999999",
    "1/0",
    "9" * 5000,
    "8/255",
    "../x",
    "/x/y",
    "~nobody/x",
    "a" * 300,
    "\0",
    "\ud800",
    "<script>alert(1)</script>",
    "|`*_[x](y)",
    "é\u202e\U0001f600",
    "line\nline",
    "nan",
    [],
    {},
    [[]],
    [0],
    [None],
    ["x", "x"],
    {"": 0},
    {"name": "x"},
    {"name": None},
    [1, "x", None, {}],
    {"x": {"y": [1]}},
    "timm:resnet18",
    "file:x",
    "run:.",
    "hf-hub:x/y",
    "kd",
    "cnn-4",
    "digits",
    1 << 40,
]
TEXTS = [
    "&a [*a]",
    "&a {x: *a}",
    "{x: &a {y: *a}}",
    "!!python/object/apply:os.system ['true']",
    "!!binary x",
    "!!int ''",
    "0x_",
    "0b_",
    "2001-99-99",
    "? [1]: 2",
    "? {a: b}: c",
    "<<: 1",
    "<<: [1, {a: b}]",
    "1: 1",
    "null: 1",
    "- x",
    "---\n---",
    "%YAML 9",
    "\t",
    "@",
    "1:99:99",
    "!!set {a, b}",
    "!!omap [a: 1]",
    "!!timestamp x",
    "!!float ''",
    "0o9",
    "1_000",
    "'",
    '"\\ud800"',
    "\x00",
    "\ufeff",
    "[" * DEEP,
    "{a: " * DEEP,
    "- " * DEEP,
    "9" * 5000,
    "-" * 5000,
    "\u2028",
    "NaN",
    "Infinity",
    '{"a": 1, "a": 2}',
    "!!python/name:os.system",
]


def bomb(levels: int = 24) -> str:
    """YAML of a few hundred bytes that stands for 2 ** levels lists."""
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, levels))]
    return "\n".join(lines) + "\n"


def damaged_tree(tree: Any, random: Random) -> Any:
    """Return plain data with one to three changes."""
    tree = copy.deepcopy(tree)
    for _ in range(random.randint(1, 3)):
        tree = _changed(tree, random)
    return tree


def _changed(tree: Any, random: Random) -> Any:
    places = list(_places(tree))
    if not places or random.random() < 0.02:
        return _value(tree, random)
    holder, key = random.choice(places)
    way = random.randrange(8)
    if way == 0:
        del holder[key]
    elif way == 1 and isinstance(holder, dict):
        held = holder.pop(key)
        holder[random.choice([f"{key}x", str(key)[:-1], str(key).upper(), "name", "\ud800", "../x", ""])] = held
    elif way == 2 and isinstance(holder, list):
        holder[key:key] = [holder[key]] * random.choice([1, 2, 50])
    elif way == 3:
        other, place = random.choice(places)
        holder[key] = copy.deepcopy(other[place])
    elif way == 4 and isinstance(holder[key], list | str):
        holder[key] = holder[key][: random.randrange(len(holder[key]) + 1)]
    elif way == 5 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
        holder[key] = random.choice(
            [-holder[key], holder[key] + 1, str(holder[key]), [holder[key]], _third(holder[key])]
        )
    else:
        holder[key] = _value(holder[key], random)
    return tree


def _third(number: float) -> float:
    return number / 3 if abs(number) < 1e300 else 0.0


def _value(old: Any, random: Random) -> Any:
    value = copy.deepcopy(random.choice(FOREIGN))
    way = random.randrange(12)
    if way == 0:
        for _ in range(random.choice([1, 3, 200])):
            value = [value] if random.random() < 0.5 else {"a": value}
    return {"name": old} if way == 1 else [old] if way == 2 else value


def _places(tree: Any) -> Any:
    waiting = [tree]
    while waiting:
        here = waiting.pop()
        keys = list(here) if isinstance(here, dict) else range(len(here)) if isinstance(here, list) else ()
        for key in list(keys)[:60]:
            yield here, key
            if isinstance(here[key], dict | list):
                waiting.append(here[key])


def damaged_json(content: bytes, random: Random) -> bytes:
    """Return a JSON file with a damaged tree, text or bytes."""
    if random.random() < 0.75:
        return json.dumps(damaged_tree(json.loads(content), random)).encode()
    return damaged_text(content, random)


def damaged_lines(content: bytes, random: Random) -> bytes:
    """Return a JSON-lines file with a damaged line."""
    lines = content.splitlines()
    row = random.randrange(len(lines))
    lines[row] = damaged_json(lines[row], random)
    return b"\n".join(lines)


def damaged_yaml(content: bytes, random: Random) -> bytes:
    """Return a YAML file with a damaged tree, text or bytes."""
    if random.random() < 0.7:
        with suppress(RecursionError):  # neither writer goes as deep as some damage
            return written_yaml(damaged_tree(_tree_of(content), random))
    return damaged_text(content, random)


@functools.cache
def _tree_of(content: bytes) -> Any:
    """Return what valid YAML holds; it is damaged in a copy."""
    return yaml.safe_load(content)


def written_yaml(tree: Any) -> bytes:
    """Return YAML, written by libyaml where it can: it is ten times as fast, and knows no halves of characters."""
    try:
        return yaml.dump(tree, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False).encode()
    except UnicodeError:
        return yaml.safe_dump(tree, sort_keys=False).encode("utf-8", "surrogatepass")


def damaged_text(content: bytes, random: Random) -> bytes:
    """Return a text with a line said twice, left out or replaced, something foreign in it, or other bytes."""
    way = random.randrange(6)
    if way == 0:
        return damaged_bytes(content, random)
    lines = content.decode("utf-8", "replace").splitlines() or [""]
    row = random.randrange(len(lines))
    if way == 1:
        lines[row:row] = [lines[row]]
    elif way == 2:
        del lines[row]
    elif way == 3:
        lines[row] = lines[row].partition(":")[0] + ": " + random.choice(TEXTS)
    elif way == 4:
        lines.insert(row, random.choice([*TEXTS, bomb(), "key: " + random.choice(TEXTS)]))
    else:
        place = random.randrange(len(lines[row]) + 1)
        lines[row] = lines[row][:place] + random.choice(TEXTS) + lines[row][place:]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def damaged_bytes(content: bytes, random: Random) -> bytes:
    """Return bytes with some flipped, left out, said twice or appended, or with another beginning."""
    found = bytearray(content)
    for _ in range(random.choice([1, 1, 2, 8])):
        place, way = random.randrange(len(found) + 1), random.randrange(8)
        if way <= 2 and place < len(found):
            found[place] ^= 1 << random.randrange(8)
        elif way == 3 and place < len(found):
            found[place] = random.choice([0, 1, 0x7F, 0x80, 0xFF])
        elif way == 4:
            del found[place:]
        elif way == 5:
            del found[place : place + random.choice([1, 4, 100])]
        elif way == 6:
            found[place:place] = found[place : place + random.choice([1, 8, 64])]
        else:
            found[:4] = random.choice([b"PK\3\4", b"\x80\2}q", b"\0\0\0\0", b"\x89PNG", b"\x93NUM", b""])
    return bytes(found)
