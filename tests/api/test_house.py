"""The form of the code that no other tool checks: names, attributes, parameters, imports and words."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
TEXTS = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path.read_text()
    for path in sorted(SOURCE.rglob("*.py"))
}
NODES = [(module, node) for module, text in TEXTS.items() for node in ast.walk(ast.parse(text))]
CLASSES = [(module, node) for module, node in NODES if isinstance(node, ast.ClassDef)]
BY_NAME = {node.name: node for _, node in CLASSES}

MOST_PARAMETERS = 8
# Public signatures, and functions whose parameters are what a user may set.
ALLOWED = {
    "kdiga.certification.comparison.clever_against",
    "kdiga.certification.interval.interval_bounds",
    "kdiga.evaluation.evaluate.evaluate",
    "kdiga.evaluation.masking.all_checks.check_masking",
    "kdiga.gradients.alignment.align",
    "kdiga.models.loading.load_model",
    "kdiga.training.distill.distill",
    "kdiga.training.distiller.Distiller.__init__",
    "kdiga.workflows.judge.certify",
    "kdiga.workflows.judge.explain",
}
AVOIDED = re.compile(r"\b(told|kept|beside|theirs|anyhow)\b", re.IGNORECASE)
MOST_AVOIDED = 40


def test_the_formatter_lays_out_every_line():
    mark = "fmt: " + "skip"
    files = [path for folder in ("src", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    assert [str(path) for path in files if mark in path.read_text()] == []


def test_a_class_name_means_one_thing():
    found = defaultdict(list)
    for module, node in CLASSES:
        found[node.name].append(module)
    assert {name: modules for name, modules in found.items() if len(modules) > 1} == {}


def test_init_assigns_every_attribute():
    """So a reader finds the whole state of an object in one place; dataclasses declare theirs."""
    late = {}
    for module, node in CLASSES:
        if not any("dataclass" in ast.unparse(mark) for mark in node.decorator_list):
            missing = assigned(node, in_init=False) - initial(node)
            late |= {f"{module}.{node.name}": sorted(missing)} if missing else {}
    assert late == {}


def initial(node: ast.ClassDef) -> set[str]:
    """Return the attributes that a class has from the start: from its body, from ``__init__`` and from its bases."""
    found = assigned(node, in_init=True)
    for one in node.body:
        if isinstance(one, ast.AnnAssign):
            found.add(ast.unparse(one.target))
        elif isinstance(one, ast.Assign):
            found |= {ast.unparse(target) for target in one.targets}
        elif isinstance(one, ast.FunctionDef) and one.decorator_list:
            found.add(one.name)  # a property with a setter
    parents = (BY_NAME.get(ast.unparse(base)) for base in node.bases)
    return found.union(*(initial(parent) for parent in parents if parent is not None and parent is not node))


def assigned(node: ast.ClassDef, *, in_init: bool) -> set[str]:
    """Return the names assigned as ``self.name`` in ``__init__``, or in all other methods."""
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


def test_functions_take_few_parameters():
    """Except functions that the command line fills in, and those that autograd calls."""
    owners = {one: node for _, node in CLASSES for one in node.body}
    many = {}
    for module, node in NODES:
        if not isinstance(node, ast.FunctionDef):
            continue
        owner, marks = owners.get(node), " ".join(ast.unparse(mark) for mark in node.decorator_list)
        by_autograd = owner is not None and any("autograd.Function" in ast.unparse(base) for base in owner.bases)
        parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = sum(one.arg not in ("self", "cls") for one in parameters)
        if count > MOST_PARAMETERS and not by_autograd and "app.command" not in marks:
            many[".".join([module, *([owner.name] if owner else []), node.name])] = count
    assert {name: count for name, count in many.items() if name not in ALLOWED} == {}
    assert many.keys() >= ALLOWED


def test_no_import_circle():
    """Between modules, imports inside packages and functions included; import-linter checks the packages."""
    imports = {module: set() for module in TEXTS}
    for module, node in NODES:
        if isinstance(node, ast.Import):
            imports[module] |= {one.name for one in node.names} & TEXTS.keys()
        elif isinstance(node, ast.ImportFrom) and node.module in TEXTS:
            submodules = {f"{node.module}.{one.name}" for one in node.names} & TEXTS.keys()
            imports[module] |= (submodules or {node.module}) - {module}
    TopologicalSorter(imports).prepare()  # raises an error that names a circle


def test_plain_words():
    """These words hide who does what; CONTRIBUTING.md says what to write in their place."""
    found = [
        f"{module}:{number}"
        for module, text in TEXTS.items()
        for number, line in enumerate(text.splitlines(), 1)
        if AVOIDED.search(line)
    ]
    assert len(found) < MOST_AVOIDED, found
