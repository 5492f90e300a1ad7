"""Models: every module of this package that defines an architecture registers it."""

from kdiga.models.checkpoint import save_model
from kdiga.models.loading import checkpoint_in, load_model
from kdiga.models.registry import Classifier, ModelSpec, available_models, build, count_parameters

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
