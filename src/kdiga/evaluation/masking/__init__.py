"""Whether the robust accuracy of a model is what it seems: checks for masked gradients, each a named finding."""

from kdiga.evaluation.masking.check import check_masking
from kdiga.evaluation.masking.finding import Finding, Verdict
from kdiga.evaluation.masking.registry import CHECKS

__all__ = ["CHECKS", "Finding", "Verdict", "check_masking"]
