"""Checks for masked gradients: whether attacks by gradient measure the robust accuracy of a model."""

from kdiga.evaluation.masking.all_checks import CHECKS, check_masking
from kdiga.evaluation.masking.finding import Finding, Verdict

__all__ = ["CHECKS", "Finding", "Verdict", "check_masking"]
