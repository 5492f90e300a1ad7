"""Evaluation of a plain module on batches. It does not depend on training."""

from kdiga.evaluation.accuracies import AttackResult, EpsSweep, Evaluation
from kdiga.evaluation.evaluate import evaluate as _evaluate
from kdiga.evaluation.evaluate import sweep, warning_of_findings
from kdiga.evaluation.named_attacks import attack_by_name

__all__ = ["AttackResult", "EpsSweep", "Evaluation", "attack_by_name", "evaluate", "sweep"]

evaluate = warning_of_findings(_evaluate)
