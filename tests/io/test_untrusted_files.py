"""Files from others: what blocks, never ends or contains code is refused at once, and shown as text."""

from __future__ import annotations

import io
import json
import os
import re
import stat
import time
import zipfile
from pathlib import Path

import pytest
import torch

from kdiga.errors import InputError, printable
from kdiga.export.torch_program import _unsafe_values, read_program, write_program
from kdiga.io.atomic_write import replacing
from kdiga.io.safe_json_yaml import load_json, parse_yaml
from kdiga.io.safe_npz import load_arrays
from kdiga.io.untrusted_file import read_text
from kdiga.models import load_model
from kdiga.models.checkpoint import read_checkpoint
from kdiga.recipes.validate import load_recipe
from kdiga.runs.run_folder import read_config, read_result

SOURCE = Path(__file__).parents[2] / "src" / "kdiga"


@pytest.mark.parametrize("kind", ["pipe", "device", "huge"])
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("x.json", load_json),
        ("x.npz", load_arrays),
        ("x.safetensors", read_checkpoint),
        ("x.pt", read_checkpoint),
        ("x.yaml", load_recipe),
        ("config.yaml", lambda path: read_config(path.parent)),
        ("result.json", lambda path: read_result(path.parent)),
        ("x.txt", read_text),
    ],
)
def test_what_is_not_an_ordinary_file_is_refused_at_once(kind, name, read, tmp_path):
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif name.endswith((".npz", ".safetensors", ".pt")):
        pytest.skip("weights may be large")
    else:
        with path.open("wb") as file:
            file.truncate(2**34)
    started = time.perf_counter()
    if name == "config.yaml" and kind != "huge":
        assert read(path) is None
    else:
        with pytest.raises((OSError, ValueError), match=r"not a file|are read|not exist|no recipe|unknown|not known"):
            read(path)
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize("text", ["a: 1" + ":59" * 200_000, "a: 1" + ":59" * 200_000 + ".5", "a: " + "9" * 1_000_000])
def test_numbers_that_take_quadratic_time_are_refused_at_once(text):
    started = time.process_time()
    with pytest.raises(ValueError, match="a number has more than"):
        parse_yaml(text)
    assert time.process_time() - started < 1


def test_weights_are_as_readable_as_other_files(tmp_path):
    from kdiga.models import save_model

    before = os.umask(0o002)
    try:
        save_model(load_model("cnn-4", in_channels=1, image_size=8), tmp_path / "x.safetensors")
        with replacing(tmp_path / "y.txt") as partial:
            partial.write_text("text")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o664}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "good.pt2"
    write_program(load_model("cnn-4", in_channels=1, image_size=8).eval(), path)
    return path


class Evil:
    """Runs code when it is unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return Path.touch, (self.place,)


def rewritten(source, path, change):
    """Write a program again with PyTorch's own writer, each part as ``change`` returns it."""
    writer = torch._C.PyTorchFileWriter(str(path))
    with zipfile.ZipFile(source) as parts:
        for name in parts.namelist():
            inner = name.split("/", 1)[1]
            if inner not in (".data/serialization_id", "version", ".format_version"):
                content = change(inner, parts.read(name))
                writer.write_record(inner, content, len(content))
    writer.write_end_of_file()
    return path


def test_a_program_without_code_is_read(program):
    assert read_program(program)(torch.rand(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("where", ["weights", "samples", "size", "operator"])
def test_a_program_with_code_is_refused_before_it_runs(where, program, tmp_path):
    place = tmp_path / "ran"
    pickled = io.BytesIO()
    torch.save(Evil(place), pickled)

    def change(name, content):
        if where == "samples" and name.endswith(".pt"):
            return pickled.getvalue()
        if where == "weights" and name.endswith("_weights_config.json"):
            found = json.loads(content)
            next(iter(found["config"].values()))["use_pickle"] = True
            return json.dumps(found).encode()
        if name.startswith("models/") and where == "size":
            return re.sub(rb'"expr_str": ?"[^"]*"', b'"expr_str": "open(chr(47))"', content)
        if name.startswith("models/") and where == "operator":
            return content.replace(b"torch.ops.aten.", b"torch.os.path.")
        return content

    with pytest.raises(InputError, match=r"may run code|not a readable program"):
        read_program(rewritten(program, tmp_path / "evil.pt2", change))
    assert not place.exists()


def test_only_known_sizes_and_operators_are_accepted():
    assert _unsafe_values({"expr_str": "Max(1, 2*s77) - 3"}) == []
    for unsafe in ("exit()", "s7.__class__", "eval(chr(9))", "s7[0]", "'a'"):
        assert _unsafe_values({"a": [{"expr_str": unsafe}]})
    for unsafe in ("torch.os.system", "torch.ops.load_library", "_operator.call", "builtins.eval"):
        assert _unsafe_values({"target": unsafe, "inputs": []})


def test_control_characters_are_shown_as_text():
    assert printable("a\x1b]0;owned\x07[red]\tb\n") == "a\\x1b]0;owned\\x07[red]\tb\n"
    assert printable("a\u202eb\ud800") == "a\\u202eb\\ud800"


def test_no_text_goes_past_the_one_function():
    """Text of files and names reaches a terminal only through ``say``, ``show_table`` and ``_fail``."""
    found = [
        f"{path.relative_to(SOURCE)}: {line.strip()}"
        for path in SOURCE.rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"(?<![\w>])print\(|\.print\(|TextColumn\(\"\{", line) and ">>>" not in line
    ]
    allowed = ("printable(", "markup=False", "ctx.get_help()", "console.print(table)", "version(")
    assert [line for line in found if not any(word in line for word in allowed)] == []


def test_no_reader_takes_text_without_an_encoding():
    readers = re.compile(r"\.(read_text|write_text)\((?![^)]*encoding)")
    allowed = ("cpuinfo", "quota", "trace", "json.loads(trace")
    found = [
        f"{path.relative_to(SOURCE)}: {line.strip()}"
        for path in SOURCE.rglob("*.py")
        for line in path.read_text().splitlines()
        if readers.search(line) and not any(word in line for word in allowed)
    ]
    assert found == []
