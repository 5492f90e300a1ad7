"""Classifiers: architectures, their weights, and the sources of both."""

from kdiga.models.checkpoint import save_model
from kdiga.models.classifier import Classifier, ModelSpec, count_parameters
from kdiga.models.loading import load_model
from kdiga.models.registry import available_models, build
from kdiga.models.sources.local import checkpoint_in

__all__ = [
    "Classifier",
    "ModelSpec",
    "available_models",
    "build",
    "checkpoint_in",
    "count_parameters",
    "load_model",
    "save_model",
]
