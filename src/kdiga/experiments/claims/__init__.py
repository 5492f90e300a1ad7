"""The paper's claims, each tested on real models by a rule fixed beforehand: ``kdiga claims``."""

from kdiga.experiments.claims.plan import Claims, load_claims
from kdiga.experiments.claims.run import open_claims, report_claims, run_claims

__all__ = ["Claims", "load_claims", "open_claims", "report_claims", "run_claims"]
