"""Every covered layer against its own Jacobian: what carries values, radii and row lengths is A, |A| and A squared."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdiga.certification.interval_layers import by_channel
from kdiga.certification.interval_network import TracedNetwork, trace_network
from kdiga.errors import InputError
from kdiga.model_state import seeded


class Between(nn.Module):
    """A layer or function on 4x6 images of two channels, and a linear layer after it."""

    def __init__(self, between, features: int, *, flat: bool = True) -> None:
        super().__init__()
        self.between, self.last, self.flat = between, nn.Linear(features, 3), flat

    def forward(self, x):
        x = self.between(x)
        return self.last(x.flatten(1) if self.flat else x)


def normed(layer: nn.Module) -> nn.Module:
    """Batch norm with statistics that are not trivial."""
    layer.running_mean.uniform_(-1, 1)
    layer.running_var.uniform_(0.5, 2)
    if layer.weight is not None:
        nn.init.uniform_(layer.weight, -2, 2)
        nn.init.uniform_(layer.bias, -2, 2)
    return layer


def summed_in_place(x):
    total = 2 * x
    total += x
    total += 0.5
    return total


CHANNELS = torch.tensor([0.5, -2.0]).view(1, 2, 1, 1)
LAYERS = {
    "convolution": lambda: nn.Conv2d(2, 3, 3),
    "without bias": lambda: nn.Conv2d(2, 3, 3, bias=False),
    "stride and padding": lambda: nn.Conv2d(2, 3, (2, 3), stride=(1, 2), padding=(1, 0)),
    "dilation": lambda: nn.Conv2d(2, 3, 2, dilation=(1, 2)),
    "groups": lambda: nn.Conv2d(2, 4, 2, groups=2),
    "batch norm": lambda: normed(nn.BatchNorm2d(2, eps=0.1)),
    "batch norm, bare": lambda: normed(nn.BatchNorm2d(2, affine=False)),
    "average": lambda: nn.AvgPool2d(2),
    "average, oblong": lambda: nn.AvgPool2d((2, 3), stride=(1, 3)),
    "average, overlapping": lambda: nn.AvgPool2d(3, 1),
    "adaptive average": lambda: nn.AdaptiveAvgPool2d(1),
    "adaptive average, pair": lambda: nn.AdaptiveAvgPool2d((1, 1)),
    "identity": nn.Identity,
    "dropout": nn.Dropout,
    "dropout of channels": nn.Dropout2d,
    "flatten": nn.Flatten,
    "mean": lambda: lambda x: x.mean((2, 3)),
    "mean, keepdim": lambda: lambda x: x.mean(dim=[-2, -1], keepdim=True),
    "adaptive function": lambda: lambda x: F.adaptive_avg_pool2d(x, 1),
    "adaptive function, pair": lambda: lambda x: F.adaptive_avg_pool2d(x, (1, 1)),
    "sum": lambda: lambda x: x + 2 * x,
    "sum in place": lambda: summed_in_place,
    "difference": lambda: lambda x: x - 3 * x,
    "number added": lambda: lambda x: x + 0.25,
    "number added to": lambda: lambda x: 0.25 + x,
    "number taken": lambda: lambda x: x - 0.25,
    "times": lambda: lambda x: x * -3,
    "divided": lambda: lambda x: x / 4,
    "channels": lambda: lambda x: (x - CHANNELS) / CHANNELS,
    "channels times": lambda: lambda x: CHANNELS * x,
    "slice": lambda: lambda x: x[:, :, 1:, ::2],
    "padding": lambda: lambda x: F.pad(x, (0, 1, 2, 0)),
    "padding of channels": lambda: lambda x: F.pad(x, (0, 0, 0, 0, 1, 2)),
    "padding, spelt out": lambda: lambda x: F.pad(x, (1, 1, 1, 1), "constant", 0.0),
    "padding, named": lambda: lambda x: F.pad(x, (1, 1, 1, 1), mode="constant", value=0),
    "contiguous": lambda: lambda x: x.contiguous(),
    "view": lambda: lambda x: x.view(x.size(0), -1),
    "reshape": lambda: lambda x: x.reshape(x.size(0), -1),
    "flatten function": lambda: lambda x: torch.flatten(x, 1),
    "flatten, named": lambda: lambda x: torch.flatten(x, start_dim=1),
    "in place": lambda: lambda x: F.relu(x, inplace=True),
}


def traced(build) -> tuple[nn.Module, TracedNetwork, torch.Tensor]:
    with seeded(3):
        between, image = build(), torch.rand(2, 4, 6, dtype=torch.float64)
        module = between.eval() if isinstance(between, nn.Module) else between
        features = module(image[None].float()).numel()
        model = Between(between, features).double().eval()
    return model, trace_network(model, image), image


@pytest.mark.parametrize("name", LAYERS)
def test_a_layers_functions_are_those_of_its_jacobian(name):
    _, network, image = traced(LAYERS[name])
    affine = [layer for layer in network.layers if layer.magnitude is not None]
    assert affine or name == "in place"
    values = [image[None]]
    for layer in network.layers:
        sources = [values[source] for source in layer.sources]
        values.append(layer.apply(*sources))
        if layer.magnitude is None:
            assert torch.equal(values[-1], sources[0].clamp_min(0))
            continue
        zeros = tuple(torch.zeros_like(source) for source in sources)
        outputs = values[-1].numel()
        parts = torch.autograd.functional.jacobian(layer.apply, zeros)
        matrices = [part.reshape(outputs, -1) for part in parts]
        whole = torch.cat(matrices, 1)
        with seeded(1):
            radii = [torch.rand_like(source) for source in sources]
        widths = sum(matrix.abs() @ radius.flatten() for matrix, radius in zip(matrices, radii, strict=True))
        assert torch.allclose(layer.magnitude(*radii).flatten(), widths)
        if len(sources) == 1:
            assert torch.allclose(layer.squared(radii[0]).flatten(), whole.square() @ radii[0].flatten())
        constant = layer.apply(*zeros)
        offset = torch.zeros(()) if layer.offset is None else by_channel(layer.offset, constant)
        assert bool((offset >= constant.abs() * (1 - 1e-12)).all())
        used = whole != 0
        assert int(used.sum(1).max()) <= layer.terms, "a sum of more products than its rounding allows for"
        if layer.diagonal:
            assert int(used.sum(1).max()) <= 1
            assert int(used.sum(0).max()) <= 1
        elif len(sources) == 1:
            assert int(used.sum(1).max()) > 1, "an L2 ball would end at a layer that only moves values"


def test_batch_norm_after_a_linear_layer_is_covered():
    with seeded(2):
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(6, 4), normed(nn.BatchNorm1d(4)), nn.ReLU(), nn.Linear(4, 3)
        ).eval()
    layer, norm = trace_network(model, torch.rand(1, 2, 3)).layers[2], model[2]
    slope = norm.weight / (norm.running_var + norm.eps).sqrt()
    assert torch.allclose(layer.magnitude(torch.ones(1, 4)), slope.abs())
    assert torch.allclose(layer.apply(torch.zeros(1, 4)), norm.bias - slope * norm.running_mean)
    # The shift is a difference: its rounding is relative to both of its parts.
    assert bool((layer.offset >= (norm.bias.abs() + (slope * norm.running_mean).abs()) * (1 - 1e-6)).all())


REFUSED = {
    "AvgPool2d": [
        lambda: nn.AvgPool2d(2, padding=1),
        lambda: nn.AvgPool2d(2, ceil_mode=True),
        lambda: nn.AvgPool2d(2, divisor_override=3),
    ],
    "AdaptiveAvgPool2d": [lambda: nn.AdaptiveAvgPool2d(2), lambda: nn.AdaptiveAvgPool2d((1, 2))],
    "Flatten": [lambda: nn.Flatten(2), lambda: nn.Flatten(1, 2), lambda: nn.Flatten(0, 1)],
    "Conv2d": [lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect")],
    "mean": [
        lambda: lambda x: x.mean(1),
        lambda: lambda x: x.mean((1, 2)),
        lambda: lambda x: x.mean(),
        lambda: lambda x: x.mean(dim=3),
    ],
    "adaptive_avg_pool2d": [
        lambda: lambda x: F.adaptive_avg_pool2d(x, 2),
        lambda: lambda x: F.adaptive_avg_pool2d(x, (2, 1)),
        lambda: lambda x: F.adaptive_avg_pool2d(x, output_size=(2, 2)),
    ],
    "flatten": [
        lambda: lambda x: torch.flatten(x, 2),
        lambda: lambda x: torch.flatten(x, 1, 2),
        lambda: lambda x: torch.flatten(x, 1, end_dim=2),
        lambda: lambda x: torch.flatten(x, start_dim=2),
    ],
    "getitem": [lambda: lambda x: x[:, 0], lambda: lambda x: x[:, torch.tensor([1, 1])]],
    "pad": [
        lambda: lambda x: F.pad(x, (1, 1)),
        lambda: lambda x: F.pad(x, (-1, 0, 0, 0)),
        lambda: lambda x: F.pad(x, (1, 1, 1, 1), "reflect"),
        lambda: lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
        lambda: lambda x: F.pad(x, (1, 1, 1, 1), value=1.0),
        lambda: lambda x: F.pad(x, (1, 1, 1, 1), "constant", 2.0),
    ],
    "view": [lambda: lambda x: x.view(x.size(0), 2, -1), lambda: lambda x: x.view(1, -1)],
    "reshape": [lambda: lambda x: x.reshape(1, -1)],
    "sub": [lambda: lambda x: 1 - x, lambda: lambda x: torch.sub(x, x, alpha=2)],
    "add": [lambda: lambda x: torch.add(x, x, alpha=2), lambda: lambda x: x + torch.ones(4, 6)],
    "mul": [lambda: lambda x: x * x, lambda: lambda x: x * torch.ones(2, 2, 4, 6)[:, :1]],
    "truediv": [lambda: lambda x: x / (x + 1), lambda: lambda x: 1 / (x + 1)],
}


@pytest.mark.parametrize(("name", "build"), [(name, build) for name, all_ in REFUSED.items() for build in all_])
def test_what_is_not_covered_is_refused_by_name(name, build):
    with pytest.raises(InputError, match=rf"do not cover the layer {name}\b"):
        traced(build)


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (1, 1, 2, 3)])
@pytest.mark.parametrize("calculate", [lambda x, c: x - c, lambda x, c: x * c, lambda x, c: x / c])
def test_constants_that_repeat_pixels_are_refused(shape, calculate):
    """One pixel in three outputs is not three pixels of one L2 ball."""
    constant = torch.rand(shape) + 0.5
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    model(calculate(torch.rand(1, 1, 2, 1), constant))
    whole = Between(lambda x: calculate(x, constant), model[1].in_features)
    with pytest.raises(InputError, match=r"arithmetic of shape \(1, 2, 1\) with a constant of"):
        trace_network(whole, torch.rand(1, 2, 1))
