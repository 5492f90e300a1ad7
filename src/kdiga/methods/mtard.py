"""MTARD, "Enhanced accuracy and robustness via multi-teacher adversarial distillation" (2022)."""

from __future__ import annotations

from torch import Tensor

from kdiga import losses
from kdiga.distributed import batch_shards
from kdiga.methods.base import CheckedOptions, Needs, Passes, coefficient, register
from kdiga.methods.context import StepContext
from kdiga.types import Objective, Term


@register("mtard", paper="Zhao et al. 2022, ECCV")
class MTARD(CheckedOptions):
    """Imitate a robust teacher at adversarial and a natural one at clean images, balanced during training.

    ``L = w_a KL(T_rob(x_adv) || S(x_adv)) + w_n KL(T_nat(x) || S(x))``, ``x_adv`` by PGD on the student's
    cross-entropy from a near start. Before each step ``w_n`` moves by ``balance_rate`` of its distance to
    ``r_n / (r_a + r_n)``, ``r`` a loss over its first value, and ``w_a = 1 - w_n``; both start at 0.5. So
    the teacher that is learnt more slowly gains weight. ``teacher`` is the robust teacher and
    ``second_teacher`` the natural teacher.

    Args:
        balance_rate: Rate of the balance, in [0, 1]; 0 leaves both weights at 0.5. The paper lowers it with the
            learning rate; here it is constant.
        steps: Number of PGD steps.
        step_size: Step length in pixels in [0, 1]; None is eps / 4.
    """

    balance_rate: float = coefficient(0.025, 0.003, 0.3)
    steps: int = 10
    step_size: float | None = None

    @property
    def needs(self) -> Needs:
        """The attack and two more passes; one pass of each teacher."""
        return Needs(
            student=Passes(self.steps + 2, self.steps + 2),
            teacher=Passes(2),
            teachers=2,
            teacher_queries=True,
            train_forwards=2,
            couples_batch=True,
        )

    def __call__(self, step: StepContext) -> Objective:
        """Attack the student, balance the weights, then return both imitations."""
        answers = step.second_teacher.logits
        adv_images = step.attack_loss(steps=self.steps, step_size=self.step_size, start="near", answers=answers)
        robust = losses.kl(step.at(adv_images).logits, step.teacher_at(adv_images)).mean()
        natural = losses.kl(step.clean.logits, answers).mean()
        weight = natural_weight(step, self.balance_rate, mean_of(robust), mean_of(natural))
        return Objective((Term("robust", 1 - weight, robust), Term("natural", weight, natural)))


def natural_weight(step: StepContext, rate: float, robust: float, natural: float) -> float:
    """Return the natural teacher's weight at a step, and keep it and the first losses in the method's memory."""
    memory = step.memory
    first_robust, first_natural = memory.setdefault("first", (robust, natural))
    r_robust, r_natural = robust / max(first_robust, 1e-12), natural / max(first_natural, 1e-12)
    target = r_natural / max(r_robust + r_natural, 1e-12)
    weight = memory.get("natural_weight", 0.5)
    memory["natural_weight"] = weight - rate * (weight - target)
    return memory["natural_weight"]


def mean_of(term: Tensor) -> float:
    """Return a term's mean over all processes that share the batch, as a number."""
    return float(batch_shards.current_shard().gather(term.detach()).mean())
