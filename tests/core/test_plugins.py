"""Models, data sets and methods that an installed package brings."""

from __future__ import annotations

import sys

import pytest
import torch

import kdiga
from kdiga import plugins
from kdiga.data import registry as data
from kdiga.methods import base as methods
from kdiga.methods import method_by_name
from kdiga.models import registry as models
from kdiga.recipes.validate import recipe_from_dict

MODULE = """
import torch
from torch import nn

from kdiga.data import DataSet, ImageSet
from kdiga.data.registry import register as register_data
from kdiga.methods.base import register as register_method
from kdiga.methods.ce import CE
from kdiga.models.registry import register as register_model

register_method("brought-ce", paper="none")(type("BroughtCE", (CE,), {}))
register_model("brought-net")(lambda spec, activation: nn.Sequential(nn.Flatten(), nn.Linear(64, spec.num_classes)))


@register_data("brought-data", lambda root: "memory")
def load(root):
    images = ImageSet(torch.rand(8, 1, 8, 8), torch.arange(8) % 2, ["a", "b"])
    return DataSet("brought-data", images, images, "memory")
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that brings all three kinds, and one that cannot be imported."""
    (tmp_path / "brought_package.py").write_text(MODULE)
    for name, module in (("brought", "brought_package"), ("broken", "no_such_module")):
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        groups = ("models", "data", "methods") if name == "brought" else ("data",)
        (folder / "entry_points.txt").write_text("".join(f"[kdiga.{kind}]\n{name} = {module}\n" for kind in groups))
    for known in (kdiga.available_methods, kdiga.available_models, kdiga.available_data):
        known()
    for registry in ((methods, "_METHODS"), (models, "_BUILDERS"), (data, "_LOADERS"), (data, "_FINDERS")):
        monkeypatch.setattr(*registry, dict(getattr(*registry)))
    monkeypatch.syspath_prepend(tmp_path)
    plugins.load_plugins.cache_clear()
    yield
    plugins.load_plugins.cache_clear()
    sys.modules.pop("brought_package", None)


def test_a_package_brings_models_data_and_methods(package):
    assert method_by_name("kd").info.name == "kd"
    kdiga.load_model("cnn-4", in_channels=1, image_size=8)
    kdiga.load_data("digits")
    assert "brought_package" not in sys.modules, "it is imported for a foreign name only"
    recipe = recipe_from_dict({"data": "digits", "student": "brought-net", "method": "brought-ce"})
    assert recipe.method.info.name == "brought-ce"
    assert recipe.student.is_fresh
    model = kdiga.load_model("brought-net", in_channels=1, image_size=8, num_classes=2)
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 2)
    assert "brought-ce" in kdiga.available_methods()
    with pytest.warns(kdiga.KdigaWarning, match="package broken brings data, and no_such_module cannot be imported"):
        assert "brought-data" in kdiga.available_data()
    assert len(kdiga.load_data("brought-data").train) == 8
