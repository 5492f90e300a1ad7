"""Training: the loop, its settings and what it leaves behind."""

from kdiga.training.distill import distill
from kdiga.training.distiller import Distiller
from kdiga.training.result import EpochRecord, TrainingResult
from kdiga.training.settings import TrainingSettings

__all__ = ["Distiller", "EpochRecord", "TrainingResult", "TrainingSettings", "distill"]
