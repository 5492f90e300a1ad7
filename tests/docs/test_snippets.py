"""Python in the documentation runs; commands and their options are ones that kdiga has; links lead somewhere."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
import yaml

import kdiga
from kdiga.cli.app import COMMANDS, app
from kdiga.experiments.claims.claims import load_claims
from kdiga.experiments.study import load_study
from kdiga.report.differences import PairedDifference

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.S | re.M)
COMMAND = re.compile(r"^(?:    |\$ )(kdiga (?:[^#\n]|#(?! ))*)", re.M)
INLINE = re.compile(r"`(kdiga [a-z][^`]*)`")
LEFT_OUT = ("...", "|", "[", ">", "&&")  # of commands that are described and not written out
# Several minutes: what a newcomer types, in order.
FIRST = "first-student.md"


def fences(page: Path, language: str) -> list[str]:
    return [text for kind, text in FENCE.findall(page.read_text()) if kind == language]


def commands(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    return [command.strip() for line in COMMAND.findall(text) for command in line.split("&&")]


def inline(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    return [command for command in INLINE.findall(text) if not any(mark in command for mark in LEFT_OUT)]


@pytest.mark.parametrize("page", [FIRST, "tutorials/notebook.ipynb"])
def test_shown_comparisons_have_the_words_of_the_program(page):
    shown = re.findall(r"(?:clean|PGD-\d+|AutoAttack): [^<>\n]*?95 % interval", (ROOT / "docs" / page).read_text())
    intervals = (-0.1, 0.2), (0.1, 0.2)
    printed = [PairedDifference("clean", 9, 0.5, 0.4, 0.1, one, 3, 1).sentence("A", "B") for one in intervals]
    assert len(shown) >= 2
    for sentence in shown:
        words = re.sub(r"[\w-]+( is correct more often than | and )[\w-]+", r"A\1B", sentence.partition(": ")[2])
        assert any(re.sub(r"[\d.]+", "0", one).find(re.sub(r"[\d.]+", "0", words)) > 0 for one in printed), sentence


WITH_PYTHON = [page for page in PAGES if fences(page, "python") and page.name not in ("README.md", "masking.md")]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_python_runs_as_written(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/digits-teacher", "runs/demo/teacher"):
        Path(folder).mkdir(parents=True)
        kdiga.save_model(kdiga.load_model("cnn-8", in_channels=1, image_size=8), Path(folder) / "best.safetensors")
    # A process of its own: what a page registers is not there for other tests.
    Path("page.py").write_text("\n".join(fences(page, "python")))
    done = subprocess.run([sys.executable, "page.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_masking_snippet_runs_with_what_its_page_says_it_needs():
    (snippet,) = fences(ROOT / "docs/masking.md", "python")
    data = kdiga.load_data("digits")
    images, labels = next(iter(data.test.batches(24)))
    model = kdiga.load_model("cnn-4", in_channels=1, image_size=8).eval()
    small = snippet.replace("8 / 255", "1 / 255")
    told: list[object] = []
    exec(
        compile(small, "masking.md", "exec"),
        {
            "model": model,
            "teacher": model,
            "images": images,
            "labels": labels,
            "print": lambda *parts: told.append(parts),
        },
    )
    assert told


@pytest.mark.parametrize(
    ("page", "command"),
    [(page.name, command) for page in PAGES for command in [*commands(page), *inline(page)]],
)
def test_commands_parse(page, command):
    """Every option is one the command has, and every number one it takes."""
    _, name, *arguments = ("1" if re.fullmatch(r"[A-Z]", word) else word for word in shlex.split(command))
    for module in COMMANDS:
        importlib.import_module(f"kdiga.cli.{module}")
    group = typer.main.get_command(app)
    if name.startswith("-"):  # an option of kdiga itself
        return
    assert name in group.commands, f"{page}: no command {name}"
    if arguments:
        _parsed(group.commands[name], name, arguments)


def _parsed(command, name, arguments):
    try:
        command.make_context(name, list(arguments))
    except Exception as error:  # the class has no public name
        # What is shortened for a sentence may leave out an argument; an option that does not exist may not stand there.
        if "Missing" not in str(error) and "requires an argument" not in str(error):
            raise


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_yaml_is_yaml(page):
    for snippet in fences(page, "yaml"):
        assert isinstance(yaml.safe_load(snippet), dict), page.name


def test_the_study_and_the_claims_of_their_pages_load(tmp_path):
    for name, load in (("study", load_study), ("claims", load_claims)):
        snippet = fences(ROOT / f"docs/{name}.md", "yaml")[0]
        path = tmp_path / f"{name}.yaml"
        path.write_text(snippet)
        assert load(path, tmp_path / "out").run_specs


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text()
    for link in re.findall(r"\]\(((?!http)[^)#]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), f"{page.name} refers to {link}"
    if page.parent == ROOT / "docs":
        assert page.name in _nav(), f"{page.name} is not in mkdocs.yml"


def _nav() -> list[str]:
    found: list[str] = []

    def walk(entry):
        if isinstance(entry, str):
            found.append(entry)
        elif isinstance(entry, list):
            for part in entry:
                walk(part)
        else:
            for part in entry.values():
                walk(part)

    walk(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    return found


@pytest.mark.slow
def test_the_first_student_page_from_start_to_end(tmp_path):
    torch.manual_seed(0)
    for command in commands(ROOT / "docs" / FIRST):
        _, *arguments = shlex.split(command)
        done = subprocess.run(
            [sys.executable, "-m", "kdiga", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert (tmp_path / "report.html").stat().st_size > 10_000
