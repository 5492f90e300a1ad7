"""Files that once ended in a traceback, a hang or a wrong result, one a defect."""

from __future__ import annotations

import gzip
import json
import logging
import struct
import zipfile

import numpy as np
import pytest

from kdiga.cli.compare import CompareRequest, compare
from kdiga.cli.output import Output
from kdiga.data.mnist import _read_idx
from kdiga.data.webdataset import _label
from kdiga.errors import InputError
from kdiga.experiments.board import RunBoard, read_json
from kdiga.experiments.claims.claims import load_claims
from kdiga.experiments.claims.run_records import RunRecords
from kdiga.experiments.curve import load_curve
from kdiga.experiments.study import load_study
from kdiga.export.torch_program import read_program
from kdiga.io.atomic_write import write_atomically
from kdiga.io.safe_json_yaml import load_json, parse_yaml
from kdiga.io.safe_npz import load_arrays
from kdiga.models import load_model
from kdiga.models.input_layers import Normalization
from kdiga.recipes.source import STUDY, read_source
from kdiga.recipes.validate import load_recipe
from kdiga.report import write_page
from kdiga.report.study import table_markdown
from kdiga.results.runs import RunResult
from kdiga.results.studies import StudyResult
from kdiga.runs.run_folder import Journal, read_config, read_result
from kdiga.runs.work_units import ResultCache
from kdiga.teachers import Manifest
from kdiga.types import parse_number
from tests.fuzz.guard import Limits, guarded, within
from tests.fuzz.mutations import bomb
from tests.fuzz.programs import program
from tests.fuzz.results import HUB
from tests.fuzz.states import write_store
from tests.fuzz.texts import CLAIMS, RECIPE
from tests.fuzz.texts import STUDY as STUDY_TEXT
from tests.fuzz.weights import SHAPE, small, write_onnx
from tests.report.samples import evaluation, explanation, pictures, write_json, write_run, write_study

YAML = {
    "an empty hexadecimal": "x: 0x_",
    "an empty integer": "x: !!int ''",
    "no date": "x: 2001-99-99",
    "a broken date": "x: !!timestamp y",
    "deep": "[" * 5000,
    "a value in itself": "x: &a {y: *a}",
    "a bomb": bomb(40),
    "half a character": 'x: "\\ud800"',
    "a long number": "x: " + "9" * 5000,
}


@pytest.mark.parametrize("name", YAML)
def test_yaml_that_its_parser_stumbles_over(tmp_path, name):
    path = tmp_path / "config.yaml"
    path.write_text(YAML[name])
    with within(5):
        with pytest.raises(InputError, match="is not YAML"):
            load_recipe(path)
        with pytest.raises(InputError, match="is not YAML"):
            read_source(path, [], STUDY)
        with pytest.raises(InputError, match="cannot be read"):
            read_config(tmp_path)
        with pytest.raises(ValueError, match=r".+"):
            parse_yaml(YAML[name])


@pytest.mark.parametrize("value", ["[" * 5000, "0x_", "2001-99-99", "&a [*a]"])
def test_overrides_that_the_parser_stumbles_over(tmp_path, value):
    (tmp_path / "r.yaml").write_text(RECIPE)
    with pytest.raises(InputError, match="has a value that is not YAML"):
        load_recipe(tmp_path / "r.yaml", [f"training.seed={value}"])


@pytest.mark.parametrize("text", ["1e999999999", "1e-999999999", "1e9999", "9" * 5000, "1e400", "1/0"])
def test_numbers_that_fit_nowhere(tmp_path, text):
    (tmp_path / "r.yaml").write_text(RECIPE.replace("8/255", text))
    with within(5):
        with pytest.raises(InputError, match="number"):
            parse_number(text)
        with pytest.raises(InputError, match="number"):
            load_recipe(tmp_path / "r.yaml")
        with pytest.raises(InputError, match=r"number|--over"):
            load_curve(tmp_path / "r.yaml", f"method.gradient_weight={text}")


def test_a_name_that_no_path_can_be(tmp_path):
    for name, message in (("a" * 300, "is not known"), ("a\0b", "no null character")):
        with pytest.raises(InputError, match=message):
            load_model(name)
        (tmp_path / "r.yaml").write_text(RECIPE.replace("cnn-4", json.dumps(name)))
        load_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize("mean", [float("nan"), float("inf")])
def test_a_normalisation_without_numbers(mean):
    with pytest.raises(InputError, match="finite"):
        Normalization((mean,), (1.0,))
    with pytest.raises(InputError, match="finite"):
        Normalization((0.0,), (abs(mean),))
    with pytest.raises(InputError, match="finite"):
        Normalization((), ())


def test_a_study_whose_teacher_is_a_list(tmp_path):
    (tmp_path / "r.yaml").write_text(STUDY_TEXT.replace("teacher: robust", "teacher: {name: [robust]}"))
    with pytest.raises(InputError, match="name"):
        load_study(tmp_path / "r.yaml", tmp_path / "out")


@pytest.mark.parametrize("change", [("tune_trials: 2", "tune_trials: x"), ("at_most: 1.0", "at_most: [1]")])
def test_claims_with_settings_of_another_kind(tmp_path, change):
    (tmp_path / "r.yaml").write_text(CLAIMS.replace(*change))
    with pytest.raises(InputError, match=change[0].partition(":")[0]):
        load_claims(tmp_path / "r.yaml", tmp_path / "out")


def test_a_message_about_a_long_value_is_short(tmp_path):
    (tmp_path / "r.yaml").write_text(
        RECIPE.replace("cnn-4, activation: silu", "x, activation: [" + "y, " * 9000 + "z]")
    )
    with pytest.raises(InputError) as told:
        load_recipe(tmp_path / "r.yaml")
    assert len(str(told.value)) < 2000


def records(folder, **files):
    (folder / "r.yaml").write_text(CLAIMS)
    claims = load_claims(folder / "r.yaml", folder / "out")
    (folder / "kept").mkdir()
    (folder / "kept/ce--small--seed-0.json").write_text(json.dumps(files))
    return RunRecords(folder / "kept"), RunBoard(claims.run_specs, claims.out)


@pytest.mark.parametrize("name", ["../escaped.json", "/tmp/kdiga-escaped.json", "other.json"])
def test_a_record_writes_no_other_file(tmp_path, name):
    failure = {"status": "diverged", "error": "x", "time": 1.0}
    kept, board = records(tmp_path, **{"failure.json": failure, name: {"a": 1}})
    with pytest.raises(InputError, match="which no run leaves"):
        kept.restore(board)
    assert not list(tmp_path.rglob("*escaped*"))
    assert not (tmp_path / "out").exists()


def test_a_record_with_other_outcomes(tmp_path):
    failure = {"status": "diverged", "error": "x", "time": 1.0}
    kept, board = records(tmp_path, **{"failure.json": failure, "best-test.json": {"correct": {"clean": [2]}}})
    with pytest.raises(InputError, match="outcomes other than 0 and 1"):
        kept.restore(board)


def test_a_failure_that_tells_none(tmp_path):
    (tmp_path / "r.yaml").write_text(STUDY_TEXT)
    study = load_study(tmp_path / "r.yaml", tmp_path / "out")
    write_json(tmp_path / "out" / study.run_specs[0].folder / "failure.json", {"error": "x"})
    with pytest.raises(InputError, match="describes no failure"):
        RunBoard(study.run_specs, study.out).state(study.run_specs[0])


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 5000, '{"a": "\\ud800"}'])
def test_results_that_are_none(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(InputError, match="made again"):
        read_json(tmp_path / "result.json")
    with pytest.raises(InputError, match="is damaged"):
        read_result(tmp_path)


def test_a_result_without_scores_is_damaged(tmp_path):
    scores = {"epoch": 1, "clean": "x", "robust": 0.3}
    write_json(tmp_path / "result.json", {"minutes": 1, "validation": {"best": scores, "last": scores}})
    with pytest.raises(InputError, match="is damaged"):
        read_result(tmp_path)


def test_json_that_is_nested_too_deep_is_a_value_error(tmp_path):
    (tmp_path / "x.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deep"):
        load_json(tmp_path / "x.json")


def test_a_changed_portion_is_done_again(tmp_path):
    result_cache = ResultCache(tmp_path)
    result_cache.put({"a": 1}, {"correct": [1, 0]})
    path = next(tmp_path.glob("*.json"))
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"outcome": {"correct": [1, 1]}}))
    assert ResultCache(tmp_path).get({"a": 1}) is None
    path.write_text("[" * 100_000)
    assert ResultCache(tmp_path).get({"a": 1}) is None
    path.write_text(json.dumps(content | {"outcome": {"correct": [1, 1]}, "sum": None}))
    assert ResultCache(tmp_path).get({"a": 1}) is None
    content.pop("sum")
    path.write_text(json.dumps(content))
    assert ResultCache(tmp_path).get({"a": 1}) == {"correct": [1, 0]}, "portions of before are taken"


@pytest.mark.parametrize(
    "change",
    [
        {"examples": 2.0},
        {"image_shape": [1, -4, 4]},
        {"num_classes": 2**40},
        {"gradient_of": [1]},
        {"views": 10**9},
        {"examples": 10**9},
        {"examples": 10**400},
    ],
)
def test_a_manifest_of_impossible_sizes(tmp_path, change):
    write_store(tmp_path)
    content = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(content | change))
    with pytest.raises(InputError, match="is not the manifest"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("correct", [{"clean": [0, [1]]}, {"clean": 3}, [], {"clean": [10**400]}, {"clean": [2]}])
def test_outcomes_that_are_none_are_not_compared(tmp_path, correct):
    for name in "ab":
        write_json(tmp_path / f"{name}.json", evaluation("kd") | {"correct": correct})
    with pytest.raises(InputError, match="is not an evaluation"):
        compare(CompareRequest(models=[tmp_path / "a.json", tmp_path / "b.json"]), Output())


def test_a_ranking_of_another_form_is_left_out(tmp_path):
    write_json(tmp_path / "kd/evaluation.json", evaluation("kd"))
    content = explanation(["kd"])
    content["ranking"][0]["interval_95"] = [{}, {}]
    write_json(tmp_path / "explanation.json", content)
    np.savez(tmp_path / "explanation.npz", **pictures(2))
    assert "ranking" in write_page([tmp_path]).left_out[0].reason


def test_a_journal_of_other_bytes_is_gone_on_with(tmp_path):
    (tmp_path / "j").write_bytes(b'{"a": 1}\n\x89\xff\n')
    Journal(tmp_path / "j", keep=1).write({"b": 2})
    assert (tmp_path / "j").read_text() == '{"a": 1}\n{"b": 2}\n'


def test_writing_follows_no_link(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("as it was")
    for name in ("x", "x.partial"):
        (tmp_path / name).symlink_to(outside)
    write_atomically(tmp_path / "x", "new")
    assert (outside.read_text(), (tmp_path / "x").read_text()) == ("as it was", "new")


def test_names_are_text_in_a_table(tmp_path):
    evil = "<script>alert(1)</script>|`x`[y](javascript:z)\nnew"
    content = json.loads((write_study(tmp_path) / "study.json").read_text())
    sound = table_markdown(StudyResult.model_validate(content))
    widths = {line.count("|") for line in sound.splitlines() if line.startswith("|")}
    content["title"] = content["data"]["name"] = content["methods"][0]["label"] = evil
    content["command"] = "kdiga `study`\n# x"
    text = table_markdown(StudyResult.model_validate(content))
    assert "<script" not in text
    assert "](java" not in text
    assert "\n# x" not in text
    assert "\nnew" not in text
    rows = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == widths


@pytest.mark.parametrize("kind", ["|u1", "<f8", "<U9999"])
def test_an_array_whose_header_asks_for_more_than_there_is_takes_no_memory(tmp_path, kind):
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': (10000000000,), }}\n".encode()
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as parts:
        parts.writestr("image.npy", b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + bytes(64))
    with guarded(Limits()), pytest.raises(ValueError, match=r"image\.npy says that it holds .* bytes, and has"):
        load_arrays(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", image=np.arange(6).reshape(2, 3), empty=np.zeros((0, 5)), text=np.array(["a", "b"]))
    assert load_arrays(tmp_path / "x.npz")["image"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("sizes", [(65536, 65536, 65536, 65536), (-1, -256), (256, -1)])
def test_images_whose_sizes_are_beyond_counting(tmp_path, sizes):
    (tmp_path / "x").write_bytes(b"\0\0\x08" + bytes([len(sizes)]) + struct.pack(f">{len(sizes)}i", *sizes))
    with pytest.raises(InputError, match="not a whole IDX file"):
        _read_idx(tmp_path / "x")


def test_a_packed_data_set_that_unpacks_to_far_more(tmp_path, monkeypatch):
    monkeypatch.setattr("kdiga.data.mnist.MOST", 1000)
    for size, refused in ((1000, False), (1001, True)):
        (tmp_path / "x.gz").write_bytes(gzip.compress(bytes(size)))
        with pytest.raises(InputError, match="unpacks to more than" if refused else "not a whole IDX file"):
            _read_idx(tmp_path / "x")


@pytest.mark.parametrize("label", ["1.7", "true", "[1]", '{"label": 0.5}', '{"label": false}'])
def test_a_class_that_is_no_whole_number(label):
    with pytest.raises(InputError, match="holds no class number"):
        _label(label.encode(), "json", "x.json")
    assert _label(b'{"label": "3"}', "json", "x.json") == _label(b"3", "cls", "x.cls") == 3


def test_a_flipped_bit_in_a_program_is_found(tmp_path):
    content = bytearray(program())
    weight = next(small().parameters()).detach().numpy().tobytes()
    content[content.index(weight) + 6] ^= 1
    (tmp_path / "model.pt2").write_bytes(content)
    with pytest.raises(InputError, match="checksum"):
        read_program(tmp_path / "model.pt2")


def test_outcomes_other_than_right_and_wrong_are_no_evaluation(tmp_path):
    content = evaluation("kd", images=12)
    right = content["correct"]["clean"].index(1)
    for strange in (7, 0.5, -1):
        content["correct"]["clean"][right] = strange
        write_json(tmp_path / "kd/evaluation.json", content)
        write_json(tmp_path / "tangent/evaluation.json", evaluation("tangent"))
        (left_out,) = write_page([tmp_path]).left_out
        assert "neither 0 nor 1" in left_out.reason


def test_outcomes_of_an_explanation_are_right_or_wrong(tmp_path):
    content = explanation(["kd"])
    np.savez(tmp_path / "explanation.npz", **pictures(2))
    write_json(tmp_path / "kd/evaluation.json", evaluation("kd"))
    for outcome, left_out in ((1, 0), (2, 1)):
        content["models"][1]["correct"] = {"autoattack": [0, outcome]}
        write_json(tmp_path / "explanation.json", content)
        assert len(write_page([tmp_path]).left_out) == left_out


@pytest.mark.parametrize("change", [{"epoch": 1.5}, {"epoch": -1}, {"epoch": True}, {"clean": 37.0}, {"robust": -0.1}])
def test_a_line_of_a_journal_that_tells_no_epoch_ends_it(tmp_path, change):
    write_run(tmp_path, "kd", epochs=3)
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    lines[1] |= change
    (tmp_path / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [one.epoch for one in RunResult.read(tmp_path).epochs] == [0]


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": 3},
        {"architecture": ["test_resnet"]},
        {"model_args": [1]},
        {"model_args": "x"},
        {"pretrained_cfg": "x"},
        {"num_classes": "3"},
        {"num_classes": 10**9},
        {"num_classes": True},
        {"pretrained_cfg": {"input_size": [1, 16], "mean": [0.5], "std": [0.5]}},
        {"pretrained_cfg": {"input_size": 16, "mean": [0.5], "std": [0.5]}},
        {"pretrained_cfg": {"input_size": [1, 16, 16], "mean": 0.5, "std": [0.5]}},
        {"pretrained_cfg": {"input_size": [1, 16, 16], "mean": [0.5], "std": ["x"]}},
    ],
)
def test_a_copy_of_the_hub_whose_config_is_of_another_form(tmp_path, change):
    write_json(tmp_path / "config.json", HUB | change)
    (tmp_path / "model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    with guarded(Limits()), pytest.raises(InputError, match=r"config\.json|timm does not know"):
        load_model(f"hf-hub:{tmp_path}")


def test_a_damaged_program_is_told_in_one_line(tmp_path, caplog, capfd):
    (tmp_path / "model.pt2").write_bytes(b"PK" + bytes(200))
    with pytest.raises(InputError, match="is not a readable program"):
        read_program(tmp_path / "model.pt2")
    assert not caplog.records
    assert capfd.readouterr().err == ""
    assert not logging.getLogger("torch.export").disabled


def test_weights_in_onnx_whose_names_are_no_text(tmp_path):
    write_onnx(tmp_path)
    content = (tmp_path / "w.onnx").read_bytes()
    name = next(iter(small().network.state_dict())).encode()
    (tmp_path / "w.onnx").write_bytes(content.replace(name, b"\xff" + name[1:]))
    with pytest.raises(InputError, match=r"w\.onnx"):
        load_model("cnn-4", weights=tmp_path / "w.onnx", normalization="none", **SHAPE)


@pytest.mark.parametrize("trials", [10**9, 10**400])
def test_more_trials_than_anybody_would_run(tmp_path, trials):
    text = STUDY_TEXT.replace("trials: 2", f"trials: {trials}")
    (tmp_path / "r.yaml").write_text(text)
    with within(5), pytest.raises(InputError, match="trials"):
        load_study(tmp_path / "r.yaml", tmp_path / "out")
    for key in ("tune_trials: 2", "tune: {trials: 2"):
        (tmp_path / "r.yaml").write_text(CLAIMS.replace(key, key.replace("2", str(trials))))
        with within(5), pytest.raises(InputError, match="trials"):
            load_claims(tmp_path / "r.yaml", tmp_path / "out")


@pytest.mark.parametrize("line", ["seed: 0", "epochs: 2", "batch_size: 32", "lr: 1e-3"])
def test_a_switch_is_no_number(tmp_path, line):
    for value in ("true", "false"):
        (tmp_path / "r.yaml").write_text(RECIPE.replace(line, f"{line.partition(':')[0]}: {value}"))
        with pytest.raises(InputError, match=f"{line.partition(':')[0]}.* was (True|False); it is a number"):
            load_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize("name", ["images", "gradient_0", "adversarial_1"])
@pytest.mark.parametrize("kind", ["U4", "complex64", "nan"])
def test_pictures_that_are_no_numbers_are_left_out(tmp_path, name, kind):
    arrays = pictures(2)
    arrays[name] = arrays[name] * np.nan if kind == "nan" else arrays[name].astype(kind)
    write_json(tmp_path / "kd/evaluation.json", evaluation("kd"))
    write_json(tmp_path / "explanation.json", explanation(["kd"]))
    np.savez(tmp_path / "explanation.npz", **arrays)
    assert len(write_page([tmp_path]).left_out) == 1


def test_outcomes_of_no_image_are_no_evaluation(tmp_path):
    content = evaluation("kd", images=12)
    content["correct"]["pgd-20"] = []
    write_json(tmp_path / "kd/evaluation.json", content)
    write_json(tmp_path / "tangent/evaluation.json", evaluation("tangent"))
    assert "is of no image" in write_page([tmp_path]).left_out[0].reason


@pytest.mark.parametrize("label", [2**63, 2**31, -1, 10**3000])
def test_a_class_number_beyond_all_classes(label):
    for suffix in ("cls", "json"):
        with pytest.raises(InputError, match="holds the class number"):
            _label(str(label).encode(), suffix, "x")


def test_what_a_library_says_is_cut(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x=np.zeros(4000))
    content = bytearray(path.read_bytes())
    content[26:28] = (30_000).to_bytes(2, "little")  # bytes of the first part's name: zipfile's message has them all
    path.write_bytes(content)
    with pytest.raises(ValueError, match="File name in directory") as raised:
        load_arrays(path)
    assert len(str(raised.value)) == 400
    with pytest.raises(ValueError, match="found undefined alias") as raised:
        parse_yaml("*" + "a" * 30_000)
    assert len(str(raised.value)) == 400
