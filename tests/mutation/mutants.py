"""Which small faults are tried: those of mutmut's operators, at every place of a source; a seeded sample of them."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators

# Their faults show at import, or nowhere.
SKIPPED = (cst.Annotation, cst.Decorator, cst.Import, cst.ImportFrom)


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Args:
        path: of the source, from the root of the project.
        number: of the fault in the source.
        lines: that it may touch.
        before: the lines that it changes.
        after: what they become.
        source: of the whole module with the fault.
    """

    path: str
    number: int
    lines: tuple[int, ...]
    before: str
    after: str
    source: str

    @property
    def name(self) -> str:
        """The same for every sample, as long as the source is."""
        return f"{self.path}#{self.number}"


class Source:
    """A module and the places where it can be broken."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        wrapper = MetadataWrapper(cst.parse_module(text), unsafe_skip_copy=True)
        self.module = wrapper.module
        self.places: list[tuple[cst.CSTNode, cst.CSTNode, tuple[int, ...]]] = []
        wrapper.visit(_Places(self.places))

    def __len__(self) -> int:
        return len(self.places)

    def sample(self, random: Random) -> Iterator[Mutant]:
        """Yield all mutants in random order, leaving out what is no Python, or the same program."""
        whole = ast.dump(ast.parse(self.module.code))
        for number in random.sample(range(len(self.places)), len(self.places)):
            node, changed, lines = self.places[number]
            source = self.module.deep_replace(node, changed).code  # pyright: ignore[reportAttributeAccessIssue]
            try:
                same = ast.dump(ast.parse(source)) == whole
            except SyntaxError:
                continue
            if not same:
                yield Mutant(self.path, number, lines, *_difference(self.module.code, source), source)


class _Places(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self, found: list[tuple[cst.CSTNode, cst.CSTNode, tuple[int, ...]]]) -> None:
        super().__init__()
        self.found, self.statement = found, 1

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, SKIPPED) or _is_overload(node):
            return False
        if isinstance(node, cst.SimpleString) and " " in node.value:
            return False  # prose: a message, whose wording is no behaviour
        position = self.get_metadata(PositionProvider, node, None)
        if isinstance(node, (cst.SimpleStatementLine, cst.BaseCompoundStatement)):
            self.statement = position.start.line
        for kind, operator in mutation_operators:
            if isinstance(node, kind):
                lines = tuple(sorted({*range(position.start.line, position.end.line + 1)} | {self.statement}))
                self.found += [(node, changed, lines) for changed in operator(node)]
        return True


def _difference(one: str, two: str) -> tuple[str, str]:
    found = [line for line in difflib.ndiff(one.splitlines(), two.splitlines()) if line[0] in "-+"]
    before, after = (" ".join(line[1:].strip() for line in found if line[0] == sign) for sign in "-+")
    return before, after


def _is_overload(node: cst.CSTNode) -> bool:
    names = [part.decorator for part in node.decorators] if isinstance(node, cst.FunctionDef) else []
    return any(isinstance(name, cst.Name) and name.value == "overload" for name in names)


def sampled(root: Path, patterns: Sequence[str], size: int, seed: int) -> tuple[list[Mutant], dict[str, int]]:
    """Return about ``size`` mutants, from each module in proportion to how many it has, and how many each has.

    The places of every module are drawn by a stream of its own, so that a change of one leaves the others' sample.
    """
    paths = sorted({path for pattern in patterns for path in root.glob(pattern) if path.name != "__init__.py"})
    sources = [Source(str(path.relative_to(root)), path.read_text()) for path in paths]
    total, chosen = sum(map(len, sources)), list[Mutant]()
    for source in sources:
        share = max(1, round(size * len(source) / total))
        chosen += islice(source.sample(Random(f"{seed} {source.path}")), share)
    Random(seed).shuffle(chosen)
    return chosen, {source.path: len(source) for source in sources}
