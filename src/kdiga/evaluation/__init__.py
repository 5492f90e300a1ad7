"""Evaluation of a plain module on batches. It knows nothing of training."""

from kdiga.evaluation.attacks import attack_by_name
from kdiga.evaluation.evaluate import evaluate
from kdiga.evaluation.result import AttackResult, Evaluation
from kdiga.evaluation.sweep import EpsSweep, sweep
from kdiga.statistics import clopper_pearson

__all__ = ["AttackResult", "EpsSweep", "Evaluation", "attack_by_name", "clopper_pearson", "evaluate", "sweep"]
