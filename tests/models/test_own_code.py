"""Own architectures by name, and what a file of an own module says: code runs only where the caller names it."""

from __future__ import annotations

import argparse
import sys

import numpy as np
import pytest
import torch
from torch import nn

import kdiga
from kdiga.errors import InputError
from kdiga.models.sources import python_code
from kdiga.runs.fingerprints import fingerprint_of_model

SOURCE = """
from pathlib import Path
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=10, width=4):
        super().__init__()
        Path(__file__).with_suffix(".ran").touch()
        self.body, self.head = nn.Sequential(nn.Flatten(), nn.Linear(48, width)), nn.Linear(width, num_classes)

    def forward(self, images):
        return {"logits": self.head(self.body(images))}

def broken(depth):
    return Net()

def number():
    return 3
"""
IMAGES = torch.rand(2, 3, 4, 4)


@pytest.fixture
def code(tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(python_code, "_NAMED", {})
    yield tmp_path
    sys.modules.pop("my_nets", None)


@pytest.mark.parametrize("name", ["python:my_nets:Net", "python:my_nets.py:Net"])
def test_a_named_factory_gets_what_it_takes(name, code):
    model = kdiga.load_model(name, num_classes=3, image_size=4, options={"width": 5})
    assert model(IMAGES).shape == (2, 3)
    assert model.network.head.in_features == 5
    assert kdiga.load_model(name, images=(3, 4, 7))(IMAGES).shape == (2, 7)


def test_a_file_never_runs_code_that_the_caller_does_not_name(code, monkeypatch):
    model = kdiga.load_model("python:my_nets:Net", num_classes=3, image_size=4)
    kdiga.save_model(model, code / "m.safetensors")
    assert torch.equal(kdiga.load_model("python:my_nets:Net", weights=code / "m.safetensors")(IMAGES), model(IMAGES))
    monkeypatch.setattr(python_code, "_NAMED", {})  # as another process
    sys.modules.pop("my_nets")
    (code / "my_nets.ran").unlink()
    for load in (
        lambda: kdiga.load_model(code / "m.safetensors"),
        lambda: kdiga.load_model("resnet20", weights=code / "m.safetensors"),
    ):
        with pytest.raises(InputError):
            load()
    with pytest.raises(InputError, match="names the code python:my_nets:Net, which runs only if you name it"):
        kdiga.load_model(code / "m.safetensors")
    assert "my_nets" not in sys.modules
    assert not (code / "my_nets.ran").exists()


def test_an_own_module_is_loaded_again_by_its_class(code):
    kdiga.load_model("python:my_nets:Net")
    from my_nets import Net

    net = Net(num_classes=3)
    kdiga.save_model(net, code / "own.safetensors")
    loaded = kdiga.load_model("python:my_nets:Net", weights=code / "own.safetensors", num_classes=3, image_size=4)
    assert torch.equal(loaded(IMAGES), net(IMAGES)["logits"])
    with pytest.raises(InputError, match=r"holds an own module, my_nets:Net, .* load_model\('python:my_nets:Net'"):
        kdiga.load_model(code / "own.safetensors")


def test_an_own_module_as_another_network_needs_its_normalisation(tmp_path):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = kdiga.load_model("cnn-4", in_channels=3, image_size=8).network

        def forward(self, images):
            return self.net((images - 0.3) / 0.4)

    own, file, images = Own().eval(), tmp_path / "own.safetensors", torch.rand(2, 3, 8, 8)
    kdiga.save_model(own, file)
    with pytest.raises(InputError, match="does not say how its model wants pixels normalised"):
        kdiga.load_model("cnn-4", weights=file, in_channels=3, image_size=8)
    model = kdiga.load_model("cnn-4", weights=file, in_channels=3, image_size=8, normalization=[[0.3], [0.4]])
    torch.testing.assert_close(model(images), own(images))


class WithExtraState(nn.Sequential):
    def get_extra_state(self):
        return {"calls": 1}

    def set_extra_state(self, state):
        pass


def test_a_state_that_is_no_tensor_is_refused_before_the_first_step(tmp_path):
    model, teacher = (WithExtraState(nn.Flatten(), nn.Linear(48, 4)) for _ in range(2))
    message = "state of WithExtraState holds _extra_state, which is not a tensor and cannot be saved"
    with pytest.raises(InputError, match=message):
        kdiga.save_model(model, tmp_path / "m.safetensors")
    steps, data = [], [(torch.rand(8, 3, 4, 4), torch.arange(8) % 4)]
    model.register_forward_hook(lambda *_: steps.append(torch.is_grad_enabled()))
    with pytest.raises(InputError, match=message):
        kdiga.distill(model, teacher, data, method="kd", epochs=1, threat="linf 0.1")
    assert True not in steps
    assert not list(tmp_path.iterdir())
    student = nn.Sequential(nn.Flatten(), nn.Linear(48, 4))
    kdiga.distill(student, teacher, data, method="kd", epochs=1, threat="linf 0.1", validation_share=0)
    assert kdiga.evaluate(model.eval(), data, eps=0.1, attacks=["fgsm"])["clean"] >= 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("python:my_nets", "names no factory"),
        ("python:nowhere_at_all:Net", "could not be imported"),
        ("python:my_nets:Nut", "could not be imported"),
        ("python:none.py:Net", "could not be imported"),
        ("python:my_nets:broken", "could not be called with no argument"),
        ("python:my_nets:number", "returned int; it must return a torch.nn.Module"),
    ],
)
def test_bad_names(name, message, code):
    with pytest.raises(InputError, match=message):
        kdiga.load_model(name)


def test_unknown_options(code):
    with pytest.raises(InputError, match="does not take depth; accepted options: width"):
        kdiga.load_model("python:my_nets:Net", options={"depth": 3})


def test_an_activation_that_the_factory_does_not_take(code):
    with pytest.raises(InputError, match=r"python:my_nets:Net takes no activation; leave activation='silu'"):
        kdiga.load_model("python:my_nets:Net", activation="silu")
    (code / "my_nets.py").write_text(SOURCE.replace("width=4", "width=4, activation=None"))
    sys.modules.pop("my_nets", None)
    assert kdiga.load_model("python:my_nets.py:Net", activation="silu").spec.activation == "silu"


def test_two_files_of_one_name(code):
    names, models = [], []
    for folder, width in (("a", 4), ("b", 5)):
        (code / folder).mkdir()
        (code / folder / "net.py").write_text(SOURCE.replace("width=4", f"width={width}"))
        names.append(f"python:{code / folder / 'net.py'}:Net")
        models.append(kdiga.load_model(names[-1], num_classes=3, image_size=4))
    first, second = (python_code.hash_of_code(name.removeprefix("python:")) for name in names)
    assert first != second
    kdiga.save_model(models[0].network, code / "own.safetensors")
    with pytest.raises(InputError, match=r"holds an own module, net.py:Net, .* load_model\('python:net.py:Net'"):
        kdiga.load_model(code / "own.safetensors")


def test_tied_weights_are_saved(tmp_path):
    block = nn.Sequential(nn.Linear(48, 48), nn.SiLU())
    model = nn.Sequential(nn.Flatten(), block, block, nn.Linear(48, 4))
    kdiga.save_model(model, tmp_path / "m.safetensors")
    from safetensors.torch import load_file

    saved = load_file(tmp_path / "m.safetensors")
    assert saved.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in saved.items())


def test_wrappers_are_left_out(tmp_path):
    model = kdiga.load_model("cnn-4", in_channels=3, image_size=8)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    for wrapped in (torch.compile(model), nn.DataParallel(model), averaged, kdiga.NamedOutput(model, "logits")):
        kdiga.save_model(wrapped, tmp_path / "m.safetensors")
        images = torch.rand(2, 3, 8, 8)
        assert torch.equal(kdiga.load_model(tmp_path / "m.safetensors")(images), model(images))


STATE = kdiga.load_model("cnn-4").network.state_dict()
FILES = {
    "a NumPy number": {"state_dict": STATE, "best_acc": np.float64(0.9)},
    "arguments": {"state_dict": STATE, "args": argparse.Namespace(lr=0.1)},
    "after a normalisation": {f"1.{name}": value for name, value in STATE.items()},
    "with its buffers": {
        "0.mean": torch.zeros(3),
        "0.std": torch.ones(3),
        **{f"1.{name}": value for name, value in STATE.items()},
    },
    "averaged": {"model_ema": STATE},
    "a prefix": {f"backbone.{name}": value for name, value in STATE.items()},
    "counters": {**STATE, "total_ops": torch.zeros(1), "0.total_params": torch.zeros(1)},
    "an epoch": {**STATE, "epoch": 3},
}


@pytest.mark.parametrize("content", FILES.values(), ids=list(FILES))
def test_checkpoints_of_other_programs(content, tmp_path):
    torch.save(content, tmp_path / "weights.pt")
    model = kdiga.load_model("cnn-4", weights=tmp_path / "weights.pt", normalization="none")
    assert all(torch.equal(value, STATE[name]) for name, value in model.network.state_dict().items())


def test_a_normalisation_in_the_file_is_not_replaced(tmp_path):
    content = {"0.mean": torch.full((3,), 0.5), "0.std": torch.full((3,), 0.2)}
    torch.save(content | {f"1.{name}": value for name, value in STATE.items()}, tmp_path / "weights.pt")
    with pytest.raises(InputError, match="leave normalization out"):
        kdiga.load_model("cnn-4", weights=tmp_path / "weights.pt", normalization="none")
    assert kdiga.load_model("cnn-4", weights=tmp_path / "weights.pt").spec.mean == (0.5, 0.5, 0.5)


def test_code_that_loads_its_weights_is_judged_and_fresh_weights_are_not(code):
    (code / "own.py").write_text(
        f"{SOURCE}\ndef trained():\n    import torch\n    torch.manual_seed(0)\n    return Net()\n"
    )
    model = kdiga.load_model("python:own.py:trained", pretrained=True)
    assert model.origin.trained
    with pytest.raises(InputError, match=r"returns fresh weights, .* give weights=FILE"):
        kdiga.load_model("python:own.py:Net", pretrained=True)
    before = fingerprint_of_model(model)
    assert fingerprint_of_model(kdiga.load_model("python:own.py:trained", pretrained=True)) == before
    (code / "own.py").write_text((code / "own.py").read_text().replace("self.head(self", "1e4 * self.head(self"))
    assert fingerprint_of_model(kdiga.load_model("python:own.py:trained", pretrained=True)) != before


def test_a_bare_state_dict_needs_no_normalisation_for_own_code(code):
    model = kdiga.load_model("python:my_nets:Net", num_classes=3, image_size=4)
    torch.save(model.network.state_dict(), code / "claimed.pt")
    loaded = kdiga.load_model("python:my_nets:Net", weights=code / "claimed.pt", num_classes=3, image_size=4)
    assert torch.equal(loaded(IMAGES), model(IMAGES))
