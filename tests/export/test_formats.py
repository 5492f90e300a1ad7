"""Every format, for every kind of network: the file computes what the model computes."""

from __future__ import annotations

import ast
import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kdiga.errors import InputError
from kdiga.export import available_formats, formats_by_name
from kdiga.export.card import snippet
from kdiga.export.exported_files import write_all
from kdiga.export.file_measurements import agreement, logits_of
from kdiga.export.formats import Format, register
from kdiga.export.onnx_file import INT8_FILE, ONNX, read_onnx, write_int8, write_onnx
from kdiga.export.robustbench_files import LOADER, loader_source, model_info
from kdiga.export.safetensors_file import HUB
from kdiga.export.torch_program import PROGRAM, write_program
from kdiga.model_state import seeded
from kdiga.models import Classifier, ModelSpec, load_model
from kdiga.types import ThreatModel

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason=f"{package} is not installed; it is part of kdiga[onnx]")

NETWORKS = (
    "cnn-4",
    "fitted",
    "vit-micro",
    "timm:test_efficientnet",  # residual connections and batch norm, too
    pytest.param("mobilenet-v2", marks=pytest.mark.slow),  # the largest graph: 10 s
)
ALL = ("onnx", "onnx-int8", "torch-export", "safetensors", "hf")


def network(name: str) -> Classifier:
    with seeded(3):
        if name == "fitted":  # colour and larger for the network; three of its classes
            inner = load_model("cnn-4", in_channels=3, image_size=16, normalization=[[0.4] * 3, [0.3] * 3])
            return inner.fitted(channels=1, size=12, classes=(7, 1, 3))
        if name == "cnn-4":
            return load_model(name, in_channels=1, image_size=12, activation="silu", normalization=[[0.3], [0.2]])
        return load_model(name, image_size=32, normalization="cifar10")


def images_for(model: Classifier, count: int, seed: int = 5) -> Tensor:
    channels, size, _ = model.spec.takes
    with seeded(seed):
        return torch.rand(count, channels, size, size)


@pytest.fixture(scope="module", params=NETWORKS)
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param.replace(":", "-"))
    model = network(request.param)
    chosen = formats_by_name(["onnx", "torch-export", "safetensors", "hf"])
    written = write_all(model, chosen, folder, images_for(model, 40))
    return model, folder, {one.name: one for one in written}


def test_files_compute_the_model_for_any_number_of_images(exported):
    model, _, written = exported
    assert tuple(written) == ALL
    for count in (1, 2, 7):
        images = images_for(model, count, seed=count)
        with torch.no_grad():
            expected = model(images)
        for name in ("onnx", "torch-export", "safetensors", "hf"):
            found = written[name].call(images)
            assert found.shape == (count, model.spec.takes[2])
            assert torch.allclose(found, expected, atol=2e-5 * max(1.0, float(expected.abs().max())))
            agreement(found, expected).check_close(name)
    for name in ("safetensors", "hf"):
        assert torch.equal(written[name].call(images), expected)


def test_int8_is_quantised_near_and_smaller(exported):
    import onnx

    model, _, written = exported
    kinds = {node.op_type for node in onnx.load(written["onnx-int8"].path).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    images = images_for(model, 20)
    expected, found = logits_of(model, images), logits_of(written["onnx-int8"].call, images)
    spread = expected.std()
    assert (found - expected).abs().max() > 0
    # x86 without VNNI saturates sums of int8 products (ONNX Runtime's notes on quantisation), so it is further off.
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else "vnni"
    assert (found - expected).std() < (0.5 if "vnni" in flags else 0.65) * spread
    if model.spec.name not in ("cnn-4",):  # of a few thousand weights most is the graph
        assert written["onnx-int8"].size < 0.6 * written["onnx"].size


def test_the_program_and_the_robustbench_file_can_be_differentiated(exported):
    model, folder, _ = exported
    threat = ThreatModel("linf", 8 / 255)
    source = loader_source(threat, "cifar10", model.spec.takes)
    assert imports(source) == {"pathlib", "torch"}  # nothing of ours: RobustBench need not have it
    (folder / LOADER).write_text(source)
    loaded = import_file(folder / LOADER)
    assert (loaded.DATASET, loaded.THREAT_MODEL, loaded.EPS) == ("cifar10", "Linf", 8 / 255)
    robust = loaded.load_model().to("cpu").eval()
    assert not robust.training
    robust.train()
    assert not robust.training
    images = images_for(model, 3)
    ours, theirs = images.clone().requires_grad_(), images.clone().requires_grad_()
    torch.logsumexp(model(ours), 1).sum().backward()
    torch.logsumexp(robust(theirs), 1).sum().backward()
    assert ours.grad.abs().max() > 0
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-5 * float(ours.grad.abs().max()))
    assert all(parameter.grad is None for parameter in robust.parameters())


@pytest.mark.parametrize("name", ALL)
def test_the_lines_of_the_model_card_run(exported, name, monkeypatch):
    model, folder, _ = exported
    monkeypatch.chdir(folder)
    found = {}
    exec(snippet(name, model.spec.takes), found)
    assert tuple(found["logits"].shape) == (4, model.spec.takes[2])
    if name == "hf":
        monkeypatch.chdir(folder / "hf")
        exec(snippet(name, model.spec.takes, in_hub_folder=True), found)


def test_the_hub_folder(exported):
    model, folder, _ = exported
    config = json.loads((folder / HUB.file / "config.json").read_text())
    channels, size, classes = model.spec.takes
    assert (config["input_size"], config["num_classes"]) == ([channels, size, size], classes)
    assert ModelSpec.from_dict(config["kdiga"]["spec"]) == model.spec


def imports(source: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(source)))
    plain = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module.split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}


def import_file(path):
    spec = importlib.util.spec_from_file_location("robustbench_model", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def linear(mean: float = 0.5) -> Classifier:
    with seeded(1):
        return Classifier(
            ModelSpec("linear", 3, 1, 4, mean=(mean,), std=(0.25,)), nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        ).eval()


def test_onnx_takes_pixels_and_returns_logits_by_the_formula(tmp_path):
    import onnx

    model = linear()
    write_onnx(model, tmp_path / "m.onnx")
    images = torch.rand(5, 1, 4, 4)
    layer = model.network[1]
    expected = (images.flatten(1) - 0.5) / 0.25 @ layer.weight.T + layer.bias
    assert torch.allclose(read_onnx(tmp_path / "m.onnx")(images), expected, atol=1e-5)
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert ([one.name for one in graph.input], [one.name for one in graph.output]) == (["images"], ["logits"])
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param  # a name, not a number


def test_a_file_that_computes_something_else_is_refused(tmp_path):
    model, other = linear(), linear(mean=0.5002)
    write_onnx(other, tmp_path / "m.onnx")
    images = torch.rand(5, 1, 4, 4)
    near = agreement(logits_of(read_onnx(tmp_path / "m.onnx"), images), logits_of(model, images))
    with pytest.raises(InputError, match="does not compute what the model does"):
        near.check_close("onnx")
    with pytest.raises(InputError, match="does not compute"):
        replace(near, largest_difference=float("nan")).check_close("onnx")


class Reading(nn.Module):
    """Chooses its way by what is in the pixels, which no graph can hold."""

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        return flat[:, :3] if float(flat.sum()) > 1 else -flat[:, :3]


@pytest.mark.parametrize(("write", "name"), [(write_onnx, "onnx"), (write_program, "torch-export")])
def test_a_network_that_cannot_be_exported_gives_an_error_in_one_line(tmp_path, write, name):
    model = Classifier(ModelSpec("choosy", 3, 1, 4), Reading()).eval()
    with pytest.raises(InputError, match=f"choosy cannot be exported to {name}: ") as error:
        write(model, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert "safetensors" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_damaged_files_give_an_error(tmp_path):
    (tmp_path / "m").write_bytes(b"nothing")
    with pytest.raises(InputError, match="onnxruntime does not accept"):
        read_onnx(tmp_path / "m")
    with pytest.raises(InputError, match="is not a readable program"):
        PROGRAM.read(tmp_path / "m")


def test_names_and_packages(monkeypatch):
    assert set(available_formats()) == {"onnx", "torch-export", "safetensors", "hf"}
    assert [one.name for one in formats_by_name(["HF ", "onnx", "hf"])] == ["hf", "onnx"]
    with pytest.raises(InputError, match="did you mean onnx"):
        formats_by_name(["onx"])
    with pytest.raises(InputError, match="no format was given"):
        formats_by_name([""])
    ONNX.check_packages()
    with pytest.raises(InputError, match=r"nowhere, which is not installed; install with: pip install 'kdiga\[onnx\]'"):
        replace(ONNX, packages=("onnx", "nowhere")).check_packages()


def test_int8_of_something_that_is_no_onnx_file(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be quantised to int8") as error:
        write_int8(tmp_path / "model.onnx", torch.rand(4, 1, 4, 4), tmp_path / INT8_FILE)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_model_info_in_robustbench_form():
    info = model_info(
        threat=ThreatModel("l2", 0.5), data="cifar10", architecture="resnet20", clean=0.91234, autoattack=None
    )
    assert info["clean_acc"] == "91.23"
    assert info["autoattack_acc"] is None
    assert (info["dataset"], info["eps"], info["architecture"]) == ("cifar10", "0.5", "resnet20")


def test_two_formats_of_one_name_are_refused():
    with pytest.raises(InputError, match="two formats"):
        register(Format("onnx", "x", "x", write_onnx, read_onnx))
