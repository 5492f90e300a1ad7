"""Every registered architecture, and the way from names and files to models."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import kdiga
from kdiga.errors import InputError
from kdiga.models import ModelSpec, available_models, build, count_parameters
from kdiga.models.classifier import ACTIVATIONS
from kdiga.models.input_layers import normalization_by_name

MODELS = available_models()
SMALL = [name for name in MODELS if name.startswith(("cnn", "resnet8", "vit-micro", "mobilenet"))]
every_model = pytest.mark.parametrize("name", MODELS)


@every_model
@pytest.mark.parametrize(("size", "channels", "classes"), [(32, 3, 10), (28, 1, 7), (8, 1, 10)])
def test_logits_have_the_right_shape(name, size, channels, classes):
    patch = int(name.partition("-p")[2] or 1) if "vit" in name else 1
    size = max(patch, patch * (size // patch))
    with torch.device("meta"):
        model = build(ModelSpec(name, classes, channels, size)).eval()
        logits = model(torch.rand(2, channels, size, size))
    assert logits.shape == (2, classes)


@pytest.mark.parametrize("name", SMALL)
def test_can_be_differentiated_twice(name):
    model = kdiga.load_model(name, num_classes=4, in_channels=1, image_size=16).train()
    images, labels = torch.rand(2, 1, 16, 16), torch.tensor([1, 3])
    kdiga.align(model, None, images, labels, teacher_gradient=torch.zeros_like(images)).backward()
    assert sum(float(parameter.grad.abs().sum() > 0) for parameter in model.parameters()) > 3


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ["cnn-4", "resnet8", "vit-micro"])
def test_activation_replaces_the_architectures_own(name, activation):
    model = kdiga.load_model(name, activation=activation, image_size=16)
    kinds = {type(module) for module in model.modules() if type(module) in ACTIVATIONS.values()}
    assert kinds == {ACTIVATIONS[activation]}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet20", 269_722),
        ("resnet56", 853_018),
        ("resnet18", 11_173_962),
        ("mobilenet-v2", 2_296_922),
        ("preact-resnet18", 11_172_170),
        ("wrn-34-10", 46_160_474),
        ("resnet2b", 112_006),
        ("resnet4b", 123_734),
    ],
)
def test_sizes_of_the_literature(name, parameters):
    """As printed for these architectures on CIFAR-10 by the repositories whose checkpoints they load."""
    with torch.device("meta"):
        assert count_parameters(build(ModelSpec(name))) == parameters


def test_normalization_is_a_layer():
    model = kdiga.load_model("cnn-4", normalization=[[0.5, 0.4, 0.3], [0.2, 0.2, 0.1]])
    images = torch.rand(2, 3, 32, 32)
    by_hand = (images - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.2, 0.2, 0.1]).view(3, 1, 1)
    assert torch.allclose(model(images), model.network(by_hand), atol=1e-5)


@pytest.mark.parametrize("name", ["cnn-4", "resnet8", "vit-micro"])
def test_checkpoint_round_trip(name, tmp_path):
    model = kdiga.load_model(name, num_classes=5, in_channels=1, image_size=12, normalization=[[0.3], [0.2]])
    kdiga.save_model(model, tmp_path / "model.safetensors", method="kdiga")
    again = kdiga.load_model(tmp_path / "model.safetensors")
    images = torch.rand(3, 1, 12, 12)
    assert torch.equal(model(images), again(images))
    assert again.spec == model.spec
    assert not again.training


@pytest.mark.parametrize("layout", ["bare", "state_dict", "module", "list", "old"])
@pytest.mark.parametrize("suffix", [".pt", ".th"])
def test_foreign_checkpoints(layout, suffix, tmp_path):
    source = kdiga.load_model("resnet8")
    state = source.network.state_dict()
    saved = {
        "bare": state,
        "state_dict": {"state_dict": state, "epoch": 3},
        "module": OrderedDict((f"module.{key}", value) for key, value in state.items()),
        "list": [state],
        "old": {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")},
    }[layout]
    torch.save(saved, tmp_path / f"weights{suffix}")
    model = kdiga.load_model("resnet8", weights=tmp_path / f"weights{suffix}", normalization="cifar10")
    for key, value in model.network.state_dict().items():
        assert torch.equal(value, state[key])


def test_timm_architectures():
    model = kdiga.load_model("timm:resnet10t", num_classes=6, image_size=40)
    assert model(torch.rand(1, 3, 40, 40)).shape == (1, 6)
    vit = kdiga.load_model("timm:vit_tiny_patch16_224", num_classes=6, image_size=32)
    assert vit(torch.rand(1, 3, 32, 32)).shape == (1, 6)


class Harmful:
    """A pickle that would create a file if it were ever unpickled without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_that_wants_more_than_tensors_is_refused(tmp_path):
    torch.save({"state_dict": Harmful(tmp_path / "harm")}, tmp_path / "bad.pt")
    with pytest.raises(InputError, match="not a checkpoint of tensors alone"):
        kdiga.load_model("cnn-4", weights=tmp_path / "bad.pt")
    assert not (tmp_path / "harm").exists()


def test_bad_names_and_files(tmp_path):
    with pytest.raises(InputError, match="did you mean resnet18"):
        kdiga.load_model("resnet-18")
    with pytest.raises(InputError, match="timm model 'resnet1818'"):
        kdiga.load_model("timm:resnet1818")
    with pytest.raises(InputError, match="does not exist"):
        kdiga.load_model(tmp_path / "none.safetensors")
    for suffix in (".safetensors", ".pt"):
        (tmp_path / f"text{suffix}").write_text("hello")
        with pytest.raises(InputError, match=r"not a .*checkpoint"):
            kdiga.load_model("cnn-4", weights=tmp_path / f"text{suffix}")
    with pytest.raises(InputError, match="holds no run"):
        kdiga.load_model(tmp_path)
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pt")
    with pytest.raises(InputError, match=r"missing .*unexpected bias, weight.*another architecture"):
        kdiga.load_model("cnn-4", weights=tmp_path / "linear.pt", normalization="none")
    with pytest.raises(InputError, match="does not say its architecture"):
        kdiga.load_model(tmp_path / "linear.pt")
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(InputError, match="does not say its architecture"):
        kdiga.load_model(tmp_path / "plain.safetensors")
    torch.save({"epoch": 3}, tmp_path / "no-state.pt")
    with pytest.raises(InputError, match="holds no state dict"):
        kdiga.load_model("cnn-4", weights=tmp_path / "no-state.pt")


def test_another_number_of_classes_is_noticed(tmp_path):
    model = kdiga.load_model("cnn-4", num_classes=5)
    kdiga.save_model(model, tmp_path / "five.safetensors")
    with pytest.raises(InputError, match="num_classes=5, not num_classes=7"):
        kdiga.load_model(tmp_path / "five.safetensors", num_classes=7)
    torch.save(model.network.state_dict(), tmp_path / "five.pt")
    with pytest.raises(InputError, match=r"7.weight is \(5, .*\) in the file and \(10,"):
        kdiga.load_model("cnn-4", weights=tmp_path / "five.pt", normalization="none")
    with pytest.raises(InputError, match="name='cnn-4', not name='cnn-8'"):
        kdiga.load_model("cnn-8", weights=tmp_path / "five.safetensors")
    assert kdiga.load_model("cnn-4", weights=tmp_path / "five.safetensors").spec.num_classes == 5


def test_foreign_weights_must_come_with_their_normalization(tmp_path):
    torch.save(kdiga.load_model("cnn-4").network.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(InputError, match="does not say how its model wants pixels normalised"):
        kdiga.load_model("cnn-4", weights=tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalization": "imagnet"}, "did you mean imagenet"),
        ({"normalization": [[0.5]]}, "normalization was"),
        ({"normalization": [[0.5, 0.5], [1.0, 1.0]]}, "2 channels and the images 3"),
        ({"normalization": [[0.5], [0.0]]}, "std above 0"),
        ({"activation": "rellu"}, "did you mean relu"),
        ({"num_classes": 0}, "num_classes was 0"),
        ({"pretrained": True}, "no pretrained weights"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        kdiga.load_model("cnn-4", **options)


def test_vit_refuses_a_size_it_cannot_cut():
    with pytest.raises(InputError, match="multiple of 4"):
        kdiga.load_model("vit-tiny", image_size=30)


def test_a_normalisation_as_text():
    """As on the command line; the common deviation of CIFAR-10 has a name."""
    text = "[[0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]]"
    assert normalization_by_name(text) == normalization_by_name("cifar10-per-image")
    for wrong in ("[[0.5], [0.5]", "[0.5, 0.5]", "[[0.5], [true]", "[]"):
        with pytest.raises(InputError, match="normalization was"):
            normalization_by_name(wrong)
