"""Models by the names of their sources, each with small files made here and no network."""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from enum import Enum
from types import ModuleType
from urllib.error import URLError

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import kdiga
from kdiga.errors import InputError
from kdiga.model_state import seeded
from kdiga.models.classifier import WeightsOrigin
from kdiga.models.registry import available_sources
from kdiga.models.sources import timm as timm_source

SHUFFLE = "shufflenet_v2_x0_5"  # torchvision's smallest


@pytest.fixture(scope="module")
def cnn():
    with seeded(4):
        return kdiga.load_model("cnn-4", num_classes=3, in_channels=1, image_size=8, normalization=[[0.3], [0.2]])


@pytest.fixture
def images():
    with seeded(6):
        return torch.rand(4, 1, 8, 8)


def test_every_source_is_one_file_with_its_prefix():
    assert list(available_sources()) == [
        "",
        "file",
        "hf-hub",
        "python",
        "robustbench",
        "run",
        "timm",
        "torchvision",
        "zoo",
    ]


# Files and runs


@pytest.mark.parametrize("prefix", ["", "file:"])
def test_our_own_file(prefix, cnn, images, tmp_path):
    kdiga.save_model(cnn, tmp_path / "m.safetensors")
    model = kdiga.load_model(f"{prefix}{tmp_path / 'm.safetensors'}")
    assert torch.equal(model(images), cnn(images))
    assert model.origin == WeightsOrigin(f"file {tmp_path / 'm.safetensors'}", trained=True)


@pytest.mark.parametrize("prefix", ["", "run:"])
def test_a_run(prefix, cnn, images, tmp_path):
    for which in ("best", "last"):
        kdiga.save_model(cnn, tmp_path / f"{which}.safetensors")
    assert torch.equal(kdiga.load_model(f"{prefix}{tmp_path}", which="last")(images), cnn(images))
    (tmp_path / "last.safetensors").unlink()
    with pytest.raises(InputError, match="holds no run; expected last"):
        kdiga.load_model(f"{prefix}{tmp_path}", which="last")


MADRY = ["module.model.", "module.attacker.model."]


def foreign(cnn: nn.Module, layout: str) -> object:
    state = cnn.network.state_dict()
    mean, std = torch.tensor([0.3]).view(1, 1, 1), torch.tensor([0.2]).view(1, 1, 1)
    if layout == "madry":
        saved = {f"{prefix}{key}": value for prefix in MADRY for key, value in state.items()}
        normalizers = ["module.normalizer.", "module.attacker.normalize."]
        saved |= {f"{one}new_mean": mean for one in normalizers} | {f"{one}new_std": std for one in normalizers}
        return {"model": OrderedDict(saved), "epoch": 3}
    if layout == "robustbench":
        return {"state_dict": {"mu": mean[None], "sigma": std[None]} | {f"model.{k}": v for k, v in state.items()}}
    if layout == "mean-std":
        return {"mean": mean, "std": std, **state}
    if layout == "our classifier":
        return cnn.state_dict()
    return {"net": [{f"_orig_mod.module.{key}": value for key, value in state.items()}]}


@pytest.mark.parametrize("layout", ["madry", "robustbench", "mean-std", "our classifier", "compiled"])
def test_files_of_other_code_bases(layout, cnn, images, tmp_path):
    torch.save(foreign(cnn, layout), tmp_path / "w.ckpt")
    normalization = [[0.3], [0.2]] if layout == "compiled" else None
    model = kdiga.load_model(
        f"file:{tmp_path / 'w.ckpt'}", architecture="cnn-4", images=(1, 8, 3), normalization=normalization
    )
    torch.testing.assert_close(model(images), cnn(images))
    assert model.spec.mean == (0.3,)
    assert model.spec.std == (0.2,)
    assert any("removed" in note or "normalisation read" in note for note in model.origin.notes)
    assert (layout == "madry") == any("second copy" in note for note in model.origin.notes)


def test_a_normalisation_that_contradicts_the_file(cnn, tmp_path):
    torch.save(foreign(cnn, "robustbench"), tmp_path / "w.pt")
    options = {"weights": tmp_path / "w.pt", "images": (1, 8, 3)}
    assert kdiga.load_model("cnn-4", normalization=[[0.3], [0.2]], **options).spec.mean == (0.3,)
    with pytest.raises(InputError, match=r"holds its normalisation.*another was given"):
        kdiga.load_model("cnn-4", normalization="none", **options)


def test_what_is_missing_or_too_much_is_listed(cnn, tmp_path):
    state = dict(foreign(cnn, "our classifier"))
    del state["network.0.bias"]
    torch.save(state | {"network.9.weight": torch.zeros(2)}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"missing 0.bias; unexpected 9.weight"):
        kdiga.load_model(f"file:{tmp_path / 'w.pt'}", architecture="cnn-4", images=(1, 8, 3))


def test_tensors_matched_by_order(cnn, images, tmp_path):
    state = {f"layer{number}": value for number, value in enumerate(cnn.network.state_dict().values())}
    torch.save(state, tmp_path / "w.pth")
    options = {"architecture": "cnn-4", "images": (1, 8, 3), "normalization": [[0.3], [0.2]]}
    name = f"file:{tmp_path / 'w.pth'}"
    with pytest.raises(InputError, match="missing"):
        kdiga.load_model(name, **options)
    model = kdiga.load_model(name, matched="order", **options)
    assert torch.equal(model(images), cnn(images))
    assert "8 tensors matched by their order" in model.origin.notes[0]
    with pytest.raises(InputError, match="did you mean order"):
        kdiga.load_model(name, matched="oder", **options)
    swapped = list(state.items())
    torch.save(dict([swapped[1], swapped[0], *swapped[2:]]), tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"tensor 1 is layer1 \(4,\) in the file and 0.weight \(4, 1, 3, 3\)"):
        kdiga.load_model(name, matched="order", **options)
    torch.save(dict(swapped[:-1]), tmp_path / "w.pth")
    with pytest.raises(InputError, match="holds 7 tensors and the network 8"):
        kdiga.load_model(name, matched="order", **options)


def test_a_refused_pickle_names_what_it_would_run(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(InputError, match=r"would run torch\.nn\.modules\.linear\.Linear, which is refused"):
        kdiga.load_model(f"file:{tmp_path / 'whole.pt'}", architecture="cnn-4")


def test_onnx_weights(images, tmp_path):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    with seeded(1):
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 3))
    state = network.state_dict()
    arrays = {
        "onnx::MatMul_1": state["1.weight"].T,
        "1.bias": state["1.bias"],
        "3.weight": state["3.weight"],
        "3.bias": state["3.bias"],
    }
    nodes = [
        helper.make_node("MatMul", ["x", "onnx::MatMul_1"], ["a"]),
        helper.make_node("Add", ["1.bias", "a"], ["b"]),
        helper.make_node("Gemm", ["b", "3.weight", "3.bias"], ["y"], transB=1),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, [None, 64])],
        [value("y", TensorProto.FLOAT, [None, 3])],
        [numpy_helper.from_array(one.contiguous().numpy(), name) for name, one in arrays.items()],
    )
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    from kdiga.models.checkpoint import read_checkpoint

    found = read_checkpoint(tmp_path / "m.onnx").state
    assert found.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in found.items())
    (tmp_path / "bad.onnx").write_bytes(b"hello")
    with pytest.raises(InputError, match="not a readable ONNX file"):
        read_checkpoint(tmp_path / "bad.onnx")


# timm


@pytest.fixture
def pretrained_timm(monkeypatch):
    """test_resnet with weights "from the Hub": what timm would fetch comes from here."""
    with seeded(2):
        source = timm.create_model("test_resnet")

    def create(name, pretrained=False, num_classes=1000, in_chans=3, **options):
        if options.pop("img_size", None):
            raise TypeError("img_size")
        model = real(name, num_classes=num_classes, in_chans=in_chans, **options)
        if pretrained:
            model.load_state_dict(source.state_dict())
        return model

    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", create)
    return source


def test_pretrained_timm_keeps_its_own_shape(pretrained_timm):
    model = kdiga.load_model("timm:test_resnet", pretrained=True)
    config = timm.get_pretrained_cfg("test_resnet")
    assert model.spec.takes == (3, config.input_size[1], 1000)
    assert (model.spec.mean, model.spec.std) == (config.mean, config.std)
    assert not model.origin.new_head
    images = torch.rand(2, 3, 160, 160)
    torch.testing.assert_close(model.network(images), pretrained_timm.eval()(images))


def test_pretrained_timm_serves_some_classes_or_gets_a_new_head(pretrained_timm):
    picked = kdiga.load_model("timm:test_resnet", pretrained=True, classes=["n01440764", "chainsaw"], images=(3, 64, 2))
    assert picked.spec.classes == (0, 491)
    assert picked.spec.num_classes == 1000
    fresh = kdiga.load_model("timm:test_resnet", pretrained=True, images=(3, 64, 7))
    assert fresh.spec.takes == (3, 160, 7)
    assert fresh.origin.new_head
    assert "a new head of 7 classes" in fresh.origin.notes[-1]
    body = {name: value for name, value in fresh.network.state_dict().items() if not name.startswith("fc")}
    assert all(torch.equal(value, pretrained_timm.state_dict()[name]) for name, value in body.items())


def test_timms_own_weights_from_a_file(pretrained_timm, tmp_path):
    torch.save(pretrained_timm.state_dict(), tmp_path / "w.pt")
    model = kdiga.load_model("timm:test_resnet", pretrained=True, weights=tmp_path / "w.pt")
    assert model.spec.std == timm.get_pretrained_cfg("test_resnet").std
    assert torch.equal(
        model.network.conv1[0].weight if isinstance(model.network.conv1, nn.Sequential) else model.network.conv1.weight,
        next(iter(pretrained_timm.state_dict().values())),
    )
    with pytest.raises(InputError, match="does not say how"):
        kdiga.load_model("timm:test_resnet", weights=tmp_path / "w.pt", num_classes=1000)
    with pytest.raises(InputError, match="give classes: imagenet"):
        kdiga.load_model("timm:test_resnet", weights=tmp_path / "w.pt", normalization="imagenet", images=(3, 64, 7))


def test_options_travel_with_the_spec(tmp_path):
    model = kdiga.load_model("timm:test_vit", image_size=32, num_classes=4, options={"patch_size": 8})
    assert model.network.patch_embed.num_patches == 16
    kdiga.save_model(model, tmp_path / "m.safetensors")
    again = kdiga.load_model(tmp_path / "m.safetensors")
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(again(images), model(images))
    assert model.spec.to_dict()["options"] == {"patch_size": 8}
    # A spec without options is what it was before there were any, and so is its fingerprint.
    assert "options" not in kdiga.load_model("cnn-4").spec.to_dict()
    with pytest.raises(InputError, match="timm refused"):
        kdiga.load_model("timm:test_vit", image_size=32, options={"patchsize": 8})
    with pytest.raises(InputError, match="cnn-4 has no options"):
        kdiga.load_model("cnn-4", options={"patch_size": 8})


def test_timms_weights_without_a_network(monkeypatch):
    def refuse(*_, **__):
        raise URLError("no route")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(
        InputError, match=r"download model.safetensors from https://huggingface.co/timm/resnet18.a1_in1k"
    ):
        kdiga.load_model("timm:resnet18", pretrained=True)
    with pytest.raises(InputError, match=r"no pretrained weights for vit_tiny_patch16_224\.nope; it has vit_tiny"):
        timm_source.pretrained_settings("vit_tiny_patch16_224.nope")


# torchvision


@pytest.fixture
def shuffle(monkeypatch):
    """torchvision's smallest network with weights "from the net"."""
    with seeded(3):
        source = torchvision.models.get_model(SHUFFLE, weights=None).eval()
    weights = torchvision.models.get_model_weights(SHUFFLE)
    monkeypatch.setattr(weights, "get_state_dict", lambda self, **_: source.state_dict())
    return source


def test_pretrained_torchvision(shuffle, tmp_path):
    model = kdiga.load_model(f"torchvision:{SHUFFLE}.IMAGENET1K_V1", pretrained=True)
    assert model.spec.takes == (3, 224, 1000)
    assert model.spec.mean == (0.485, 0.456, 0.406)
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(model.network(images), shuffle(images))
    kdiga.save_model(model.fitted(channels=1, size=32, classes=(3, 1)), tmp_path / "m.safetensors")
    again = kdiga.load_model(tmp_path / "m.safetensors")
    assert again(torch.rand(2, 1, 32, 32)).shape == (2, 2)
    headed = kdiga.load_model(f"torchvision:{SHUFFLE}", pretrained=True, images=(1, 28, 6))
    assert headed.spec.takes == (3, 224, 6)
    assert headed.network(images).shape == (2, 6)
    assert headed.origin.new_head


def test_fresh_torchvision_takes_the_datas_shape():
    model = kdiga.load_model(f"torchvision:{SHUFFLE}", images=(1, 28, 6))
    assert model.spec.takes == (3, 28, 6)
    assert not model.origin.trained
    with torch.device("meta"):
        vit = kdiga.load_model("torchvision:vit_b_16", image_size=32, num_classes=5)
        assert vit(torch.rand(1, 3, 32, 32)).shape == (1, 5)
        for name in ("googlenet", "squeezenet1_1"):
            assert (
                kdiga.load_model(f"torchvision:{name}", image_size=64).train()(torch.rand(2, 3, 64, 64)).shape[1] == 10
            )


def test_bad_torchvision(monkeypatch, tmp_path):
    with pytest.raises(InputError, match="did you mean IMAGENET1K_V1"):
        kdiga.load_model(f"torchvision:{SHUFFLE}.IMAGENET_V1", pretrained=True)
    with pytest.raises(InputError, match=r"take 3 channels and in_channels was 1"):
        kdiga.load_model(f"torchvision:{SHUFFLE}", in_channels=1)
    with pytest.raises(InputError, match="activation='silu' does not apply"):
        kdiga.load_model(f"torchvision:{SHUFFLE}", activation="silu")

    def refuse(*_, **__):
        raise URLError("no route")

    monkeypatch.setattr(torchvision.models.get_model_weights(SHUFFLE), "get_state_dict", refuse)
    with pytest.raises(InputError, match=r"download https://download.pytorch.org/\S+\.pth by hand and give its path"):
        kdiga.load_model(f"torchvision:{SHUFFLE}", pretrained=True)
    # The same file, fetched by hand:
    torch.save(torchvision.models.get_model(SHUFFLE, weights=None).state_dict(), tmp_path / "w.pth")
    model = kdiga.load_model(f"torchvision:{SHUFFLE}", pretrained=True, weights=tmp_path / "w.pth")
    assert model.spec.image_size == 224


# The Hugging Face Hub


@pytest.fixture
def timm_folder(tmp_path):
    """A folder as timm writes it for the Hub."""
    with seeded(5):
        network = timm.create_model("test_vit", num_classes=12, img_size=32, patch_size=8)
    settings = {
        "input_size": [3, 32, 32],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "num_classes": 12,
        "classifier": "head",
        "first_conv": "patch_embed.proj",
    }
    arguments = {"img_size": 32, "patch_size": 8}
    config = {"architecture": "test_vit", "num_classes": 12, "model_args": arguments, "pretrained_cfg": settings}
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(network.state_dict(), folder / "model.safetensors")
    return folder, network.eval()


def test_a_timm_folder_of_the_hub(timm_folder, tmp_path):
    folder, network = timm_folder
    model = kdiga.load_model(f"hf-hub:{folder}")
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(model(images), network((images - 0.5) / 0.25))
    assert model.spec.takes == (3, 32, 12)
    kdiga.save_model(model, tmp_path / "m.safetensors")  # its spec needs no Hub any more
    torch.testing.assert_close(kdiga.load_model(tmp_path / "m.safetensors")(images), model(images))
    headed = kdiga.load_model(f"hf-hub:{folder}", images=(3, 32, 5))
    assert headed.origin.new_head
    assert headed(images).shape == (2, 5)


def test_our_folder_of_the_hub(cnn, images, tmp_path):
    kdiga.save_model(cnn, tmp_path / "model.safetensors")
    model = kdiga.load_model(f"hf-hub:{tmp_path}")
    assert torch.equal(model(images), cnn(images))
    assert model.origin.source == f"hf-hub:{tmp_path}"


def test_a_repository_of_the_hub(cnn, images, tmp_path, monkeypatch):
    asked = []

    def snapshot(repository, *, local_files_only=False, revision=None, **_):
        asked.append((repository, local_files_only, revision))
        if local_files_only:
            raise FileNotFoundError("not cached")
        return str(tmp_path)

    kdiga.save_model(cnn, tmp_path / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert torch.equal(kdiga.load_model("hf-hub:org/name@v1")(images), cnn(images))
    assert asked == [("org/name", True, "v1"), ("org/name", False, "v1")]

    def refuse(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(
        InputError, match=r"no route.*download config.json and model.safetensors from .*org/name by hand"
    ):
        kdiga.load_model("hf-hub:org/name")


def test_bad_folders_of_the_hub(timm_folder, tmp_path):
    folder, _ = timm_folder
    with pytest.raises(InputError, match="nor an ORG/NAME of the Hub"):
        kdiga.load_model("hf-hub:name")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no model.safetensors"):
        kdiga.load_model(f"hf-hub:{tmp_path / 'empty'}")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InputError, match="is a model of 'bert' that timm does not know"):
        kdiga.load_model(f"hf-hub:{folder}")
    (folder / "config.json").write_text(json.dumps({"architecture": "test_vit", "num_classes": 12}))
    with pytest.raises(InputError, match="does not say its input_size, mean, std"):
        kdiga.load_model(f"hf-hub:{folder}")
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"no readable config\.json"):
        kdiga.load_model(f"hf-hub:{folder}")
    (folder / "model.safetensors").unlink()
    torch.save(nn.Linear(2, 2), folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="which is refused"):
        kdiga.load_model(f"hf-hub:{folder}")


# RobustBench


class Dataset(Enum):
    cifar_10 = "cifar10"


class Threat(Enum):
    Linf = "Linf"


class Normalised(nn.Module):
    """As RobustBench's: takes pixels in [0, 1] and normalises inside."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mu", torch.full((1, 3, 1, 1), 0.5))
        self.register_buffer("sigma", torch.full((1, 3, 1, 1), 0.2))
        self.layer = nn.Linear(3 * 32 * 32, 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.layer(((pixels - self.mu) / self.sigma).flatten(1))


@pytest.fixture
def robustbench(monkeypatch, tmp_path):
    """The package, faked: one model, and a download that finds what lies in the folder of weights."""
    package, zoo, utils = (ModuleType(name) for name in ("robustbench", "robustbench.model_zoo", "robustbench.utils"))
    zoo.model_dicts = {Dataset.cifar_10: {Threat.Linf: {"Some2024Paper": {"model": Normalised, "gdrive_id": "abc"}}}}

    def load_model(name, *, model_dir, dataset, threat_model):
        sys.stdout.write("Downloading")
        model = Normalised()
        path = model_dir / dataset / threat_model / f"{name}.pt"
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()

    utils.load_model = load_model
    for module in (package, zoo, utils):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setenv("KDIGA_WEIGHTS", str(tmp_path))
    return tmp_path / "robustbench" / "cifar10" / "Linf" / "Some2024Paper.pt"


NAME = "robustbench:cifar10/Linf/Some2024Paper"


def test_robustbench(robustbench, tmp_path, capsys):
    with seeded(8):
        source = Normalised()
    robustbench.parent.mkdir(parents=True)
    torch.save(source.state_dict(), robustbench)
    model = kdiga.load_model(NAME, images=(3, 32, 10))
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(images), source(images))  # normalised once
    assert capsys.readouterr().out == ""
    kdiga.save_model(model, tmp_path / "m.safetensors")
    assert torch.equal(kdiga.load_model(tmp_path / "m.safetensors")(images), source(images))
    # From a file, and one from before the normalisation was a buffer:
    old = {f"module.{name}": value for name, value in source.state_dict().items() if name not in ("mu", "sigma")}
    torch.save({"state_dict": old}, tmp_path / "old.pt")
    model = kdiga.load_model(NAME, weights=tmp_path / "old.pt")
    assert torch.equal(model(images), source(images))
    assert any("mu, sigma of RobustBench's code" in note for note in model.origin.notes)


def test_bad_robustbench(robustbench, monkeypatch):
    with pytest.raises(
        InputError, match=r"No such file.*download its file by hand from \S+abc and put it at \S+2024Paper"
    ):
        kdiga.load_model(NAME)
    with pytest.raises(InputError, match=r"normalise inside"):
        kdiga.load_model(NAME, normalization="cifar10")
    with pytest.raises(InputError, match="has num_classes=10, not num_classes=5"):
        kdiga.load_model(NAME, num_classes=5)
    for name, message in {
        "robustbench:cifar10/Linf/Some2024Papper": "did you mean robustbench:cifar10/Linf/Some2024Paper",
        "robustbench:cifar10/Some2024Paper": "has not the form",
        "robustbench:cifar1/Linf/Some2024Paper": "did you mean cifar10",
        "robustbench:cifar10/linf/Some2024Paper": "did you mean Linf",
    }.items():
        with pytest.raises(InputError, match=message):
            kdiga.load_model(name)
    monkeypatch.setitem(sys.modules, "robustbench.model_zoo", None)
    with pytest.raises(InputError, match=r"needs the package robustbench.*pip install 'kdiga\[robustbench\]'"):
        kdiga.load_model(NAME)


# Names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet50", "did you mean .*timm:resnet50"),
        ("timm:resnet5o", "timm:resnet50 .*torchvision:resnet50"),
        ("torchvison:resnet50", "did you mean torchvision:resnet50"),
        ("zzz:a", "accepted: file:PATH, hf-hub:ORG/NAME"),
        ("timm:", "names no model; give timm:NAME"),
        ("run:/no/where", "does not exist"),
        ("file:/no/where.pt", "does not exist"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(InputError, match=message):
        kdiga.load_model(name)


def test_arguments_without_a_place(cnn, tmp_path):
    kdiga.save_model(cnn, tmp_path / "best.safetensors")
    for options in ({"architecture": "cnn-4"}, {"matched": "order"}, {"pretrained": True}):
        with pytest.raises(InputError, match="does not apply"):
            kdiga.load_model(f"run:{tmp_path}", **options)
    with pytest.raises(InputError, match="does not apply"):
        kdiga.load_model(f"file:{tmp_path / 'best.safetensors'}", weights="other.pt")
    with pytest.raises(InputError, match="give a name such as"):
        kdiga.load_model(f"file:{tmp_path / 'best.safetensors'}", architecture="run:x")
