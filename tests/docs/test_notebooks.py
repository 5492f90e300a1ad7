"""Notebooks of the documentation hold the outputs of their code, and run."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

import kdiga

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs/tutorials").glob("*.ipynb"))


def code(cell: dict) -> str:
    lines = "".join(cell["source"]).splitlines()
    return "\n".join(line for line in lines if not line.startswith("%"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_has_its_outputs_and_uses_public_names(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert path.stat().st_size < 300_000
    for cell in cells:
        used = {
            node.attr
            for node in ast.walk(ast.parse(code(cell)))
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "kdiga"
        }
        assert used <= set(kdiga.__all__), used
        assert not any(output["output_type"] == "error" for output in cell["outputs"])
        assert not any("/home" in json.dumps(output) or "/tmp" in json.dumps(output) for output in cell["outputs"])
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), "run from start to end"
    assert sum(bool(cell["outputs"]) for cell in cells) >= len(cells) - 1
    assert f"tutorials/{path.name}" in (ROOT / "mkdocs.yml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs(path, tmp_path):
    nbclient = pytest.importorskip("nbclient")
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
