"""Fine-tuning: what moves, how fast, and what stays."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import kdiga
from kdiga.errors import InputError
from kdiga.model_state import seeded
from kdiga.training import TrainingSettings
from kdiga.training.freezing import FrozenParameters, frozen_names
from kdiga.training.optimization import build_optimizer, build_schedule, parameter_groups
from kdiga.types import ThreatModel
from tests.conftest import five_layers

QUICK = {"batch_size": 40, "lr": 1e-2, "validation_steps": 1, "threat": ThreatModel("linf", 0.05)}


def small(name: str = "resnet8") -> nn.Module:
    with seeded(3):
        return kdiga.load_model(name, num_classes=4, in_channels=1, image_size=8)


def rates(model: nn.Module, **settings) -> dict[str, tuple[float, float]]:
    """Return rate and weight decay of each parameter by name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = build_optimizer([model], TrainingSettings(**settings))
    groups = optimizer.param_groups
    found = {names[id(one)]: (group["lr"], group["weight_decay"]) for group in groups for one in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups)
    return found


def test_the_rate_falls_by_a_factor_a_layer():
    model = five_layers(0)
    found = rates(model, lr=0.1, layer_decay=0.5, weight_decay=0.3)
    expected = {"0": 0.025, "1": 0.025, "3": 0.05, "4": 0.05, "7": 0.1}
    assert {name: rate for name, (rate, _) in found.items()} == pytest.approx(
        {f"{layer}.{kind}": rate for layer, rate in expected.items() for kind in ("weight", "bias")}
    )
    assert {decay for _, decay in found.values()} == {0.3}


def test_without_a_layer_decay_there_is_one_group_in_the_models_order():
    model = small()
    (group,) = parameter_groups([model], TrainingSettings()).values()
    assert all(one is other for one, other in zip(group, model.parameters(), strict=True))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_norms_and_biases_without_weight_decay(optimizer):
    found = rates(small("vit-micro"), optimizer=optimizer, weight_decay=0.3, decay_norms_and_biases=False)
    for name, (_, decay) in found.items():
        matrix = name.endswith("weight") and "norm" not in name
        assert decay == (0.3 if matrix else 0.0), name
    assert found["network.pos_embed"][1] == 0.0


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "multi-step", "constant"])
def test_schedules_keep_the_ratio_of_the_layers(schedule):
    settings = TrainingSettings(lr=0.1, layer_decay=0.5, schedule=schedule, optimizer="sgd")
    optimizer = build_optimizer([five_layers(0)], settings)
    steps = build_schedule(optimizer, settings, 20)
    peaks = [0.0, 0.0, 0.0]
    for _ in range(20):
        now = [group["lr"] for group in optimizer.param_groups]
        assert now[1:] == pytest.approx([now[0] / 2, now[0] / 4])
        peaks = [max(pair) for pair in zip(peaks, now, strict=True)]
        optimizer.step()
        steps.step()
    assert peaks == pytest.approx([0.1, 0.05, 0.025], rel=0.02), "the first group's rate is the run's"


def test_a_teacher_that_is_trained_along_has_the_full_rate():
    student, teacher = five_layers(0), five_layers(1)
    groups = parameter_groups([student, teacher], TrainingSettings(lr=0.1, layer_decay=0.5))
    full = {id(one) for (rate, _), group in groups.items() if rate == 0.1 for one in group}
    assert {id(one) for one in teacher.parameters()} < full
    assert id(student[0].weight) not in full


@pytest.mark.parametrize("factor", [0, -1, 1.5, float("nan")])
def test_a_layer_decay_out_of_range(factor):
    with pytest.raises(InputError, match="layer_decay was"):
        TrainingSettings(layer_decay=factor)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ((), set()),
        (("0.*",), {"0.weight", "0.bias"}),
        (("*.bias", "7.weight"), {"0.bias", "1.bias", "3.bias", "4.bias", "7.bias", "7.weight"}),
    ],
)
def test_patterns_name_parameters(patterns, expected):
    assert frozen_names(five_layers(0), patterns) == expected


def test_names_below_a_classifier_need_no_network_in_front():
    model = small()
    short, long = (frozen_names(model, (f"{above}layer1.*",)) for above in ("", "network."))
    assert short == long
    assert short
    assert frozen_names(model, ("all but head",)) == {
        name for name, _ in model.named_parameters() if not name.startswith("network.linear.")
    }


def test_patterns_that_mean_nothing_or_everything():
    with pytest.raises(InputError, match=r"'conv9\.\*', which is not a parameter .* 0\.weight, 0\.bias"):
        FrozenParameters(five_layers(0), ("conv9.*",))
    model = five_layers(0)
    with pytest.raises(InputError, match="leaves no parameter"):
        FrozenParameters(model, ("*",))
    assert all(one.requires_grad for one in model.parameters()), "left as found"


@pytest.mark.parametrize("method", ["kd", "kdiga", "tangent"])
def test_what_is_frozen_stays_and_the_rest_learns(method, stripes, teacher):
    with seeded(4):
        student = nn.Sequential(five_layers(1)[:3], five_layers(1)[3:7], nn.Linear(128, 4))
        teacher = nn.Sequential(teacher[:7], nn.Linear(128, 4)).eval()
    before = copy.deepcopy(student.state_dict())
    kdiga.distill(student, teacher, stripes, method=method, epochs=1, freeze="0.*", **QUICK)
    for name, value in student.state_dict().items():
        same = torch.equal(value, before[name])
        assert same == name.startswith("0."), name
    assert all(parameter.requires_grad for parameter in student.parameters()), "as they were"


def test_frozen_parameters_are_let_go_when_training_fails(stripes):
    student = five_layers(1)
    with pytest.raises(kdiga.DivergedError):
        kdiga.distill(student, None, stripes, method="ce", epochs=1, freeze=["0.*"], **(QUICK | {"lr": 1e18}))
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_batch_norm_without_parameters_goes_with_its_block():
    block = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, affine=False))
    model = nn.Sequential(block, nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2, affine=False)))
    frozen = FrozenParameters(model, ("0.*",))
    model.train()
    frozen.freeze_statistics()
    assert (model[0][1].training, model[1][1].training) == (False, True)


def test_an_interrupted_run_with_groups_goes_on_as_if_it_had_not_been(stripes, tmp_path):
    settings = QUICK | {"layer_decay": 0.7, "freeze": ("0.*",), "decay_norms_and_biases": False, "method": "ce"}

    class StopError(Exception):
        pass

    def stop(record):
        if record.epoch == 1:  # the state after epoch 0 is on disk, that after this one is not
            raise StopError

    straight, begun, continued = five_layers(1), five_layers(1), five_layers(1)
    kdiga.distill(straight, None, stripes, epochs=3, **settings)
    with pytest.raises(StopError):
        kdiga.distill(begun, None, stripes, epochs=3, out=tmp_path, on_epoch=stop, **settings)
    kdiga.distill(continued, None, stripes, epochs=3, out=tmp_path, resume=True, **settings)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, continued.state_dict()[name]), name
