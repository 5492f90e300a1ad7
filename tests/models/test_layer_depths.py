"""How deep a parameter lies, and which are the head."""

from __future__ import annotations

import pytest
from torch import nn

from kdiga.models import load_model
from kdiga.models.layer_depths import head_of, layers_of

SMALL = ("cnn-4", "resnet8", "resnet2b", "mobilenet-v2", "vit-micro", "preact-resnet18", "wrn-16-4")


@pytest.mark.parametrize("name", SMALL)
def test_the_head_turns_features_into_logits(name):
    model = load_model(name, num_classes=7, image_size=32)
    shapes = {key: tuple(value.shape) for key, value in model.named_parameters()}
    head = sorted(head_of(model), key=lambda key: len(shapes[key]))
    assert [len(shapes[key]) for key in head] == [1, 2]
    assert [shapes[key][0] for key in head] == [7, 7]


@pytest.mark.parametrize("name", SMALL)
def test_layers_rise_from_the_images_to_the_head(name):
    model = load_model(name, num_classes=7, image_size=32)
    layers = layers_of(model)
    assert list(layers) == [key for key, _ in model.named_parameters()]
    assert set(layers.values()) == set(range(max(layers.values()) + 1)), "none is left out"
    assert {key for key, layer in layers.items() if layer == max(layers.values())} == head_of(model)
    assert {layers_of(model.network)[key.removeprefix("network.")] - layer for key, layer in layers.items()} == {0}


def test_a_transformers_blocks_are_its_layers():
    layers = layers_of(load_model("vit-micro", num_classes=10))
    assert layers["network.pos_embed"] == layers["network.patch_embed.proj.weight"] == 0
    assert [layers[f"network.blocks.{block}.attn.qkv.weight"] for block in range(6)] == [1, 2, 3, 4, 5, 6]
    assert layers["network.head.weight"] == 7


def test_a_norm_belongs_to_the_layer_before_it():
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2)),
        nn.Flatten(),
        nn.Linear(2, 3),
    )
    assert layers_of(network) == {
        "0.weight": 0,
        "0.bias": 0,
        "1.weight": 0,
        "1.bias": 0,
        "3.0.weight": 1,
        "3.0.bias": 1,
        "3.1.weight": 1,
        "3.1.bias": 1,
        "5.weight": 2,
        "5.bias": 2,
    }
    assert head_of(network) == {"5.weight", "5.bias"}


def test_a_model_without_parameters_has_no_head():
    assert head_of(nn.Flatten()) == frozenset()
    assert layers_of(nn.Flatten()) == {}


class Grouped(nn.Module):
    """A network that, like some of timm's, groups its last norm and its head with the layer before."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.fc = nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2)

    def group_matcher(self, coarse=False):
        return {"stem": r"^stem", "rest": [(r"^norm", (99999,)), (r"^fc", (99999,))]}

    def get_classifier(self):
        return self.fc


def test_the_head_is_a_layer_of_its_own_whatever_it_is_grouped_with():
    layers = layers_of(Grouped())
    assert (layers["stem.weight"], layers["norm.weight"], layers["fc.weight"], layers["fc.bias"]) == (0, 0, 1, 1)
