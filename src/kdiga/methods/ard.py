"""Adversarially robust distillation (Goldblum et al., 2020, arXiv:1905.09747), and objectives of the same name."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

from kdiga import losses
from kdiga.errors import check_known
from kdiga.methods.base import CheckedOptions, Needs, Passes, coefficient, register
from kdiga.methods.context import StepContext
from kdiga.types import Objective, Term


class Definition(NamedTuple):
    """One meaning of "ARD": the teacher's images, the attack's objective and the temperature."""

    teacher_input: Literal["clean", "adv"]
    attack: Literal["loss", "kl"]
    temperature: float


DEFINITIONS = {
    "original": Definition("clean", "loss", 30.0),
    "tau1": Definition("clean", "loss", 1.0),
    "adv-target": Definition("adv", "loss", 1.0),
    "kl-attack": Definition("clean", "kl", 30.0),
}


@register("ard", paper="Goldblum et al. 2020, arXiv:1905.09747")
class ARD(CheckedOptions):
    """Imitate the teacher's soft labels at the student's adversarial images.

    ``L = teacher_weight * temperature**2 * KL(p_T(.) || p_S(x_adv)) + label_weight * CE_s(x)``.

    Four objectives are published under this name, so a table has to say which one it shows:

    - "original": the teacher sees clean images, PGD on the student's cross-entropy, temperature 30;
    - "tau1": the same at temperature 1;
    - "adv-target": the teacher sees the adversarial images, temperature 1;
    - "kl-attack": as the original, but PGD on ``KL(p_T(x) || p_S(x_adv))`` from a near start.

    The original averages the KL over the classes and attacks the student in train mode. Here the KL is summed
    over the classes, and ``attack_batch_norm`` sets the mode.

    Args:
        definition: Name of one of the four objectives.
        temperature: Temperature of the imitation, above 0; None is the definition's.
        label_weight: Weight of the cross-entropy at clean images, 0 in all four; 0 leaves their pass out.
        teacher_weight: Weight of the imitation.
        steps: Number of PGD steps.
        step_size: Step length in pixels in [0, 1]; None is eps / 4, and eps for one step.
    """

    definition: str = "original"
    temperature: float | None = None
    label_weight: float = 0.0
    teacher_weight: float = coefficient(1.0, 0.25, 4)
    steps: int = 10
    step_size: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_known("definition of ARD", self.definition, DEFINITIONS)

    @property
    def needs(self) -> Needs:
        """A clean forward only if the labels have a weight."""
        clean = int(self.label_weight > 0)
        return Needs(
            student=Passes(self.steps + 1 + clean, self.steps + 1 + clean),
            teacher=Passes(1),
            teacher_queries=DEFINITIONS[self.definition].teacher_input == "adv",
            train_forwards=1 + clean,
            label_loss=self.label_weight > 0,
        )

    def __call__(self, step: StepContext) -> Objective:
        """Attack the student, then return the imitation there and, with a weight, the label term."""
        chosen = DEFINITIONS[self.definition]
        if chosen.attack == "kl":
            adv_images = farthest_from_teacher(step, steps=self.steps, step_size=self.step_size)
        else:
            answers = None if chosen.teacher_input == "adv" else step.teacher_logits
            adv_images = step.attack_loss(steps=self.steps, step_size=self.step_size, answers=answers)
        target = step.teacher_at(adv_images) if chosen.teacher_input == "adv" else step.teacher_logits
        imitation = losses.kl(step.at(adv_images).logits, target, self.temperature or chosen.temperature)
        terms = [Term("teacher", self.teacher_weight, imitation.mean())]
        if self.label_weight:
            terms.append(Term("label", self.label_weight, step.clean.losses.mean()))
        return Objective(tuple(terms))


def farthest_from_teacher(step: StepContext, *, steps: int, step_size: float | None) -> Tensor:
    """Return images that maximise ``KL(p_T(x) || p_S(x_adv))``, from a near start."""
    target = step.teacher_logits

    def distance(images: Tensor) -> Tensor:
        return losses.kl(step.predict(images), target)

    return step.attack(distance, steps=steps, step_size=step_size, start="near")
