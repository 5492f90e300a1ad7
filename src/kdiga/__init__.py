"""kdiga makes a small model robust by distilling it from a robust one (KDIGA, arXiv:2110.12072).

Names are imported on first use, so that ``kdiga --help`` and the report do not wait for PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdiga.attacks import PGD as PGD
    from kdiga.data import DataSet as DataSet
    from kdiga.data import ImageSet as ImageSet
    from kdiga.data import available_data as available_data
    from kdiga.data import load_data as load_data
    from kdiga.errors import DivergedError as DivergedError
    from kdiga.errors import InputError as InputError
    from kdiga.errors import KdigaError as KdigaError
    from kdiga.errors import KdigaWarning as KdigaWarning
    from kdiga.evaluation import Evaluation as Evaluation
    from kdiga.evaluation import evaluate as evaluate
    from kdiga.gradients.alignment import align as align
    from kdiga.gradients.input_gradient import input_gradient as input_gradient
    from kdiga.gradients.routes import Exact as Exact
    from kdiga.gradients.routes import FiniteDifference as FiniteDifference
    from kdiga.methods import available_methods as available_methods
    from kdiga.models import available_models as available_models
    from kdiga.models import load_model as load_model
    from kdiga.models import save_model as save_model
    from kdiga.training import TrainingResult as TrainingResult
    from kdiga.training import TrainingSettings as TrainingSettings
    from kdiga.training import distill as distill
    from kdiga.types import ThreatModel as ThreatModel

__version__ = "0.1.0"

_HOME = {
    "align": "gradients.alignment",
    "PGD": "attacks",
    "DataSet": "data",
    "ImageSet": "data",
    "available_data": "data",
    "load_data": "data",
    "DivergedError": "errors",
    "InputError": "errors",
    "KdigaError": "errors",
    "KdigaWarning": "errors",
    "Evaluation": "evaluation",
    "evaluate": "evaluation",
    "Exact": "gradients.routes",
    "FiniteDifference": "gradients.routes",
    "input_gradient": "gradients.input_gradient",
    "available_methods": "methods",
    "available_models": "models",
    "load_model": "models",
    "save_model": "models",
    "TrainingResult": "training",
    "TrainingSettings": "training",
    "distill": "training",
    "ThreatModel": "types",
}

__all__ = [
    "PGD",
    "DataSet",
    "DivergedError",
    "Evaluation",
    "Exact",
    "FiniteDifference",
    "ImageSet",
    "InputError",
    "KdigaError",
    "KdigaWarning",
    "ThreatModel",
    "TrainingResult",
    "TrainingSettings",
    "align",
    "available_data",
    "available_methods",
    "available_models",
    "distill",
    "evaluate",
    "input_gradient",
    "load_data",
    "load_model",
    "save_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'kdiga' has no attribute {name!r}")
    return getattr(importlib.import_module(f"kdiga.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
