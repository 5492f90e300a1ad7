"""Why robustness transferred or did not: local linearity, agreement of input gradients, and the bounds they give."""

from kdiga.analysis.agreement import cosines, gradient_distance
from kdiga.analysis.bounds import Bound, student_bound, transfer_bound
from kdiga.analysis.explain import explain
from kdiga.analysis.explanation import Explained, Explanation
from kdiga.analysis.linearity import Expansion, local_linearity
from kdiga.analysis.worst_case import WorstCaseSearch

__all__ = [
    "Bound",
    "Expansion",
    "Explained",
    "Explanation",
    "WorstCaseSearch",
    "cosines",
    "explain",
    "gradient_distance",
    "local_linearity",
    "student_bound",
    "transfer_bound",
]
