"""Inner attacks: small, ours, and the same object for every method."""

from kdiga.attacks.balls import project, steepest, uniform_start
from kdiga.attacks.pgd import PGD

__all__ = ["PGD", "project", "steepest", "uniform_start"]
