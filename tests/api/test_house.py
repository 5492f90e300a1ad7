"""The form of the code that no other tool checks: names, attributes, parameters, imports and words."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
TREES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_text())
    for path in sorted(SOURCE.rglob("*.py"))
}

MOST_PARAMETERS = 8
# Public signatures and those of the functions behind a command: their parameters are what a user may set.
ALLOWED = {
    "kdiga.analysis.explain.explain",
    "kdiga.certification.clever.clever",
    "kdiga.certification.comparison.clever_against",
    "kdiga.certification.comparison.interval_against",
    "kdiga.certification.interval.interval_bounds",
    "kdiga.certification.lipschitz.estimate_lipschitz",
    "kdiga.certification.smoothing.smooth",
    "kdiga.evaluation.evaluate.evaluate",
    "kdiga.evaluation.masking.check.check_masking",
    "kdiga.evaluation.sweep.sweep",
    "kdiga.gradients.alignment.align",
    "kdiga.models.load.load_model",
    "kdiga.training.distill.distill",
}
AVOIDED = re.compile(r"\b(told|kept|beside|theirs|anyhow)\b", re.IGNORECASE)
MOST_AVOIDED = 40


def classes() -> Iterator[tuple[str, ast.ClassDef]]:
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                yield module, node


def test_the_formatter_lays_out_every_line():
    mark = "fmt: " + "skip"
    folders = (ROOT / name for name in ("src", "tests", "benchmarks"))
    assert [str(path) for folder in folders for path in folder.rglob("*.py") if mark in path.read_text()] == []


@pytest.mark.xfail(strict=False, reason="the report reads results by twins of their classes")
def test_a_class_name_means_one_thing():
    found = defaultdict(list)
    for module, node in classes():
        found[node.name].append(module)
    assert {name: modules for name, modules in found.items() if len(modules) > 1} == {}


@pytest.mark.xfail(strict=False, reason="the training loop is being rebuilt")
def test_init_assigns_every_attribute():
    """So a reader finds the whole state of an object in one place; frozen dataclasses declare theirs."""
    late = {}
    by_name = {node.name: node for _, node in classes()}
    for module, node in classes():
        if any("dataclass" in ast.unparse(one) for one in node.decorator_list):
            continue
        missing = assigned(node, in_init=False) - initial(node, by_name)
        if missing:
            late[f"{module}.{node.name}"] = sorted(missing)
    assert late == {}


def initial(node: ast.ClassDef, by_name: dict[str, ast.ClassDef]) -> set[str]:
    """Return the attributes that a class has from the start: in its body, in ``__init__``, or from its bases."""
    found = assigned(node, in_init=True)
    for one in node.body:
        if isinstance(one, ast.AnnAssign | ast.Assign):
            found |= {ast.unparse(target) for target in (one.targets if isinstance(one, ast.Assign) else [one.target])}
        elif isinstance(one, ast.FunctionDef) and one.decorator_list:
            found.add(one.name)  # a property with a setter
    for base in node.bases:
        parent = by_name.get(ast.unparse(base))
        found |= initial(parent, by_name) if parent is not None and parent is not node else set()
    return found


def assigned(node: ast.ClassDef, *, in_init: bool) -> set[str]:
    """Return the names assigned as ``self.name`` in ``__init__``, or in every other method."""
    methods = (one for one in node.body if isinstance(one, ast.FunctionDef) and (one.name == "__init__") == in_init)
    return {
        inner.attr
        for method in methods
        for inner in ast.walk(method)
        if isinstance(inner, ast.Attribute)
        and isinstance(inner.ctx, ast.Store)
        and isinstance(inner.value, ast.Name)
        and inner.value.id == "self"
    }


@pytest.mark.xfail(strict=False, reason="areas are being rebuilt")
def test_functions_take_few_parameters():
    many = {}
    for name, function in functions():
        arguments = function.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        count = sum(one.arg not in ("self", "cls", "ctx") for one in every)
        if count > MOST_PARAMETERS:
            many[name] = count
    assert {name: count for name, count in many.items() if name not in ALLOWED} == {}
    assert ALLOWED - set(many) == set()


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield every function with its name, except those that PyTorch or the command line calls."""

    def inside(node: ast.AST, name: str) -> Iterator[tuple[str, ast.FunctionDef]]:
        for one in ast.iter_child_nodes(node):
            if isinstance(one, ast.ClassDef) and any("autograd.Function" in ast.unparse(base) for base in one.bases):
                continue
            if isinstance(one, ast.FunctionDef):
                if not any("app.command" in ast.unparse(mark) for mark in one.decorator_list):
                    yield f"{name}.{one.name}", one
            yield from inside(one, f"{name}.{one.name}" if isinstance(one, ast.ClassDef | ast.FunctionDef) else name)

    for module, tree in TREES.items():
        yield from inside(tree, module)


@pytest.mark.xfail(strict=False, reason="areas are being rebuilt")
def test_no_import_circle():
    """Between modules, inside packages and functions as well; import-linter checks the packages."""
    TopologicalSorter({module: {*imported(tree)} - {module} for module, tree in TREES.items()}).prepare()


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield the modules that a module names in its imports, wherever they stand."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names if one.name in TREES)
        elif isinstance(node, ast.ImportFrom) and node.module in TREES:
            submodules = {f"{node.module}.{one.name}" for one in node.names} & TREES.keys()
            yield from submodules or {node.module}


@pytest.mark.xfail(strict=False, reason="areas are being rebuilt")
def test_plain_words():
    """Words that hide who does what; the list and the words to use are in CONTRIBUTING.md."""
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sorted(SOURCE.rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if AVOIDED.search(line)
    ]
    assert len(found) < MOST_AVOIDED, found
