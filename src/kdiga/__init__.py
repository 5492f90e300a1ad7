"""kdiga makes a small model robust by distilling it from a robust one (KDIGA, arXiv:2110.12072).

Names are imported on first use, so that ``kdiga --help`` and the report do not wait for PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdiga import methods as methods
    from kdiga.attacks import PGD
    from kdiga.data import DataSet, ImageSet, available_data, load_data
    from kdiga.errors import DivergedError, InputError, KdigaError, KdigaWarning
    from kdiga.evaluation import Evaluation, evaluate
    from kdiga.gradients.alignment import align
    from kdiga.gradients.double_backward import fast_double_backward
    from kdiga.gradients.input_gradient import input_gradient
    from kdiga.gradients.routes import Exact, FiniteDifference
    from kdiga.methods import available_methods
    from kdiga.model_output import NamedOutput
    from kdiga.models import available_models, load_model, save_model
    from kdiga.training import Distiller, TrainingResult, TrainingSettings, distill
    from kdiga.types import ThreatModel
    from kdiga.workflows.compare import Comparison, compare
    from kdiga.workflows.judge import certify, explain, suitable, write_report

__version__ = "0.1.0"

__all__ = [
    "PGD",
    "Comparison",
    "DataSet",
    "Distiller",
    "DivergedError",
    "Evaluation",
    "Exact",
    "FiniteDifference",
    "ImageSet",
    "InputError",
    "KdigaError",
    "KdigaWarning",
    "NamedOutput",
    "ThreatModel",
    "TrainingResult",
    "TrainingSettings",
    "align",
    "available_data",
    "available_methods",
    "available_models",
    "certify",
    "compare",
    "distill",
    "evaluate",
    "explain",
    "fast_double_backward",
    "input_gradient",
    "load_data",
    "load_model",
    "save_model",
    "suitable",
    "write_report",
]

_MODULES = {
    "attacks": ["PGD"],
    "data": ["DataSet", "ImageSet", "available_data", "load_data"],
    "errors": ["DivergedError", "InputError", "KdigaError", "KdigaWarning"],
    "evaluation": ["Evaluation", "evaluate"],
    "gradients.alignment": ["align"],
    "gradients.double_backward": ["fast_double_backward"],
    "gradients.input_gradient": ["input_gradient"],
    "gradients.routes": ["Exact", "FiniteDifference"],
    "methods": ["available_methods"],
    "model_output": ["NamedOutput"],
    "models": ["available_models", "load_model", "save_model"],
    "training": ["Distiller", "TrainingResult", "TrainingSettings", "distill"],
    "types": ["ThreatModel"],
    "workflows.compare": ["Comparison", "compare"],
    "workflows.judge": ["certify", "explain", "suitable", "write_report"],
}


def __getattr__(name: str) -> Any:
    if name == "methods":
        return importlib.import_module("kdiga.methods")
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"kdiga.{module}"), name)
    raise AttributeError(f"module 'kdiga' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
