"""Names and links that lead out of the folder that a command writes to."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.figure import Figure

from kdiga.errors import InputError
from kdiga.experiments.board import RunBoard
from kdiga.experiments.claims.claims import load_claims
from kdiga.experiments.claims.run_records import WEIGHTS, RunRecords
from kdiga.experiments.curve import load_curve
from kdiga.experiments.study import load_study
from kdiga.export.safetensors_file import write_hub_folder
from kdiga.export.torch_program import write_program
from kdiga.io.atomic_write import write_atomically
from kdiga.models import save_model
from kdiga.report import write_page
from kdiga.report.charts import write_png
from kdiga.runs.run_folder import Journal
from kdiga.runs.work_units import ResultCache, key_hash
from kdiga.teachers.store import write_durably
from kdiga.training.resume import save_state
from tests.fuzz.states import write_store
from tests.fuzz.texts import CLAIMS, RECIPE, STUDY
from tests.fuzz.weights import small
from tests.report.samples import evaluation, write_json

OUTWARD = ["../x", "/x", "a/../../x", "..", ".", "", "a/b", "..\\x", "x\0", "~", "x\n", "\u2044x", "a" * 300 + "/.."]


def refused(load, text, folder):
    before = sorted(folder.rglob("*"))
    (folder / "r.yaml").write_text(text)
    with pytest.raises(InputError):
        load(folder / "r.yaml", folder / "out")
    assert sorted(folder.rglob("*")) == sorted({*before, folder / "r.yaml"})


@pytest.mark.parametrize("name", OUTWARD)
@pytest.mark.parametrize("label", ["robust: {student", "ce: ce", "kd: {name", "long: {method"])
def test_labels_of_a_study(tmp_path, label, name):
    (tmp_path / "sound.yaml").write_text(STUDY)
    load_study(tmp_path / "sound.yaml", tmp_path / "out")
    rest = label.partition(":")[2]
    assert label in STUDY
    refused(load_study, STUDY.replace(label, f"{json.dumps(name)}:{rest}"), tmp_path)


@pytest.mark.parametrize("name", OUTWARD)
@pytest.mark.parametrize("label", ["big: {student", "small: cnn-4", "own: {student", "ce: ce", "old: {name"])
def test_labels_of_claims(tmp_path, label, name):
    old, _, rest = label.partition(":")
    assert label in CLAIMS
    text = CLAIMS.replace(label, f"{json.dumps(name)}:{rest}")
    for one in (f"{{{old}:", f"[{old},", f", {old}]", f"[{old}]"):  # where it is referred to
        text = text.replace(one, one.replace(old, json.dumps(name)))
    refused(load_claims, text, tmp_path)


@pytest.mark.parametrize("value", ["../x", "/x", "..", "x/../../y"])
def test_values_of_a_curve(tmp_path, value):
    (tmp_path / "r.yaml").write_text(RECIPE.replace("cnn-4", "a.pt"))
    for over in (f"method.gradient_weight={value}", f"method.distance={value}", f"{value}=1"):
        with pytest.raises(InputError):
            load_curve(tmp_path / "r.yaml", over, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def outside(tmp_path):
    """A file that nothing may write to."""
    path = tmp_path / "outside/precious"
    path.parent.mkdir()
    path.write_text("precious")
    yield path
    assert [one.name for one in path.parent.iterdir()] == ["precious"]
    assert path.read_text() == "precious"


def page(path):
    write_json(path.parent / "kd/evaluation.json", evaluation("kd", images=6))
    write_page([path.parent], path)


def kept_portion(path):
    ResultCache(path.parent).put({"a": 1}, 2)


WRITERS = {
    "text": lambda path: write_atomically(path, "new"),
    "a picture": lambda path: write_png(path, Figure(figsize=(1, 1))),
    "durably": lambda path: write_durably(path, b"new"),
    "weights": lambda path: save_model(small(), path),
    "a page": page,
    "a program": lambda path: write_program(small().eval(), path),
    "a journal": lambda path: Journal(path).write({"a": 1}),
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("dangling", [True, False])
def test_a_link_of_a_file_s_name_is_replaced(tmp_path, outside, kind, dangling):
    folder = tmp_path / "out"
    folder.mkdir()
    for name in ("it", "it.partial"):
        if kind == "a page" and name == "it" and not dangling:
            continue  # what is no page of ours is not replaced
        (folder / name).symlink_to(outside.with_name("new") if dangling else outside)
    WRITERS[kind](folder / "it")
    assert not (folder / "it").is_symlink()


@pytest.mark.parametrize("name", ["state.pt", "state.pt.partial"])
def test_a_link_in_place_of_a_run_s_state(tmp_path, outside, name):
    (tmp_path / name).symlink_to(outside)
    save_state(tmp_path, {"a": 1})
    assert not (tmp_path / "state.pt").is_symlink()


def test_links_in_a_teacher_cache_and_a_hub_folder_and_among_portions(tmp_path, outside):
    store, hub, result_cache = (tmp_path / name for name in ("store", "hub", "shelf"))
    (store / "view-0").mkdir(parents=True)
    for folder in (hub, result_cache):
        folder.mkdir()
    name = key_hash({"a": 1})
    links = [
        store / "view-0/00000.npy",
        store / "view-0/00000.npy.partial",
        store / "view-0/00000.json.partial",
        hub / "config.json",
        hub / "config.json.partial",
        hub / "model.safetensors.partial",
        result_cache / f"{name}.json",
    ]
    for link in links:
        link.symlink_to(outside)
    write_store(store)
    write_hub_folder(small(), hub)
    kept_portion(result_cache / "x")
    assert not any(link.is_symlink() for link in links)
    assert np.load(store / "view-0/00000.npy").shape == (3,)


def test_links_among_what_is_kept_of_claims(tmp_path, outside):
    (tmp_path / "r.yaml").write_text(CLAIMS)
    claims = load_claims(tmp_path / "r.yaml", tmp_path / "out")
    cell = next(cell for cell in claims.run_specs if cell.kind == "teacher")
    board, kept = RunBoard(claims.run_specs, claims.out), RunRecords(tmp_path / "kept")
    place = tmp_path / "out" / cell.folder
    place.mkdir(parents=True)
    record = {"config.yaml": {"a": 1}, "result.json": {"b": 2}}
    record |= {
        name: {"settings": dict(step.asked)} for name in cell.reports for step in cell.after if step.file == name
    }
    record = {name: {"c": 3} for name in cell.reports} | record
    write_json(kept._path(cell), record)
    kept._weights(cell).write_text("weights")
    names = ["config.yaml", "result.json", WEIGHTS, *cell.reports]
    for name in names:
        for end in ("", ".partial"):
            (place / f"{name}{end}").symlink_to(outside.with_name("new"))
    assert kept.restore(board) == 1
    assert not any((place / name).is_symlink() for name in names)
    assert (place / WEIGHTS).read_text() == "weights"
    kept._weights(cell).unlink()
    kept._weights(cell).symlink_to(outside)
    kept._path(cell).unlink()
    kept._path(cell).symlink_to(outside.with_name("new"))
    RunRecords(tmp_path / "kept").write(RunBoard(claims.run_specs, claims.out))
    assert not kept._weights(cell).is_symlink()
    assert not kept._path(cell).is_symlink()
