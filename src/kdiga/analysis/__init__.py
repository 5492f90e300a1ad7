"""Why robustness transferred or did not: local linearity, agreement of input gradients, and the bounds they give."""

from kdiga.analysis.bounds import Bound, student_bound, transfer_bound
from kdiga.analysis.explain import explain
from kdiga.analysis.explanation import Explanation
from kdiga.analysis.linearity import Expansion, cosines, gradient_distance, local_linearity
from kdiga.analysis.measures import Measurements
from kdiga.analysis.model_explanation import ModelExplanation
from kdiga.analysis.worst_case import WorstCaseSearch

__all__ = [
    "Bound",
    "Expansion",
    "Explanation",
    "Measurements",
    "ModelExplanation",
    "WorstCaseSearch",
    "cosines",
    "explain",
    "gradient_distance",
    "local_linearity",
    "student_bound",
    "transfer_bound",
]
