"""The paper's claims, each tested on real models by a rule that is fixed beforehand."""
