"""The inner attack of training and evaluation, and the geometry of threat models."""

from kdiga.attacks.balls import project, steepest, uniform_start
from kdiga.attacks.pgd import PGD

__all__ = ["PGD", "project", "steepest", "uniform_start"]
