"""kdiga makes a small model robust by distilling it from a robust one (KDIGA, arXiv:2110.12072)."""

from kdiga.alignment import align
from kdiga.attacks import PGD
from kdiga.data import DataSet, ImageSet, available_data, load_data
from kdiga.errors import DivergedError, InputError, KdigaError
from kdiga.evaluation import Evaluation, evaluate
from kdiga.gradients import Exact, FiniteDifference, input_gradient
from kdiga.methods import available_methods
from kdiga.models import available_models, load_model, save_model
from kdiga.training import TrainingResult, TrainingSettings, distill
from kdiga.types import ThreatModel

__version__ = "0.1.0"

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
