"""B-MTARD (Zhao et al., 2023, arXiv:2306.16170): MTARD with teachers of equal entropy."""

from __future__ import annotations

from kdiga import losses
from kdiga.methods.base import CheckedOptions, coefficient, register
from kdiga.methods.context import StepContext
from kdiga.methods.mtard import MTARD, mean_of, natural_weight
from kdiga.types import Objective, Term

LOWEST, HIGHEST = 1.0, 10.0  # temperatures


@register("b-mtard", paper="Zhao et al. 2023, arXiv:2306.16170")
class BMTARD(CheckedOptions):
    """MTARD whose teachers have temperatures that make them equally certain.

    ``L = w_a KL(softmax(T_rob(x_adv) / t_a) || p_S(x_adv)) + w_n KL(softmax(T_nat(x) / t_n) || p_S(x))``, attack and
    weights as in ``mtard``. Both temperatures are 1 at first. After each step the temperature of the teacher with the
    larger mean entropy falls by ``temperature_rate`` and the other rises by it, within [1, 10].

    Args:
        balance_rate: Rate of the weights, in [0, 1]; 0 leaves both at 0.5. The paper lowers both rates with the
            learning rate; here they are constant.
        temperature_rate: Change of the temperatures at each step, at least 0.
        steps: Number of PGD steps.
        step_size: Step length in pixels in [0, 1]; None is eps / 4.
    """

    balance_rate: float = coefficient(0.025, 0.003, 0.3)
    temperature_rate: float = 0.001
    steps: int = 10
    step_size: float | None = None

    needs = MTARD.needs

    def __call__(self, step: StepContext) -> Objective:
        """Attack the student, balance weights and temperatures, then return both imitations."""
        answers = step.second_teacher.logits
        adv_images = step.attack_loss(steps=self.steps, step_size=self.step_size, start="near", answers=answers)
        robust_temperature, natural_temperature = step.memory.get("temperatures", (1.0, 1.0))
        robust_target = step.teacher_at(adv_images) / robust_temperature
        natural_target = answers / natural_temperature
        robust = losses.kl(step.at(adv_images).logits, robust_target).mean()
        natural = losses.kl(step.clean.logits, natural_target).mean()
        entropies = [mean_of(losses.entropy(one).mean()) for one in (robust_target, natural_target)]
        move = self.temperature_rate * ((entropies[0] > entropies[1]) - (entropies[0] < entropies[1]))
        step.memory["temperatures"] = (
            min(HIGHEST, max(LOWEST, robust_temperature - move)),
            min(HIGHEST, max(LOWEST, natural_temperature + move)),
        )
        weight = natural_weight(step, self.balance_rate, mean_of(robust), mean_of(natural))
        return Objective((Term("robust", 1 - weight, robust), Term("natural", weight, natural)))
