"""Evaluation of a plain module on images. It does not depend on training."""

from kdiga.evaluation.accuracies import AttackResult, EpsSweep, Evaluation
from kdiga.evaluation.evaluate import evaluate
from kdiga.evaluation.measure import sweep
from kdiga.evaluation.named_attacks import attack_by_name

__all__ = ["AttackResult", "EpsSweep", "Evaluation", "attack_by_name", "evaluate", "sweep"]
