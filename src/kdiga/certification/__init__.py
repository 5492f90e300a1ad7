"""Radii within which an answer cannot change: proved, certified with a confidence, or estimated."""

from kdiga.certification.clever import Clever, clever
from kdiga.certification.comparison import CertificateComparison, clever_against, interval_against, smooth_against
from kdiga.certification.interval import IntervalBounds, interval_bounds
from kdiga.certification.smoothing import Smoothed, smooth

__all__ = [
    "CertificateComparison",
    "Clever",
    "IntervalBounds",
    "Smoothed",
    "clever",
    "clever_against",
    "interval_against",
    "interval_bounds",
    "smooth",
    "smooth_against",
]
