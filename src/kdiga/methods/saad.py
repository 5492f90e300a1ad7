"""Sample-wise adaptive adversarial distillation (SAAD): a linearised teacher in the attack, entropy as a weight."""

from __future__ import annotations

import torch
from torch import Tensor

from kdiga import losses
from kdiga.distributed import batch_shards
from kdiga.methods.base import CheckedOptions, Needs, Passes, coefficient, register
from kdiga.methods.context import StepContext
from kdiga.methods.igdm import mirror
from kdiga.types import Objective, Term, added_option


@register("saad", paper="Lee et al. 2026, SAAD")
class SAAD(CheckedOptions):
    """Learn most where the teacher is least certain under attack.

    ``L = mean_i { w_i [KL_i(T(x_adv) || S(x_adv)) + difference_weight * progress * IGDM_i]
    + clean_weight * (1 - v_i) KL_i(T(x) || S(x)) }``, ``w_i = entropy_scale * (H_i - min_j H_j)``, ``H`` the
    entropy of ``p_T(x_adv)``, ``v`` being ``w`` scaled to [0, 1] over the batch, IGDM as in ``igdm``. The
    attack maximises ``KL(p_T~ || p_S(x_adv))`` from a near start. ``T~`` are the teacher's clean logits, the true
    class's logit moved along its input gradient: one teacher backward per batch in place of one per step.

    Unlike in all other methods, an example's weight depends on its batch. The paper's weight averaging is not
    part of the objective and is left out.

    Args:
        entropy_scale: Scale of the weights.
        difference_weight: Weight of the IGDM term; it rises linearly over the whole training.
        clean_weight: Weight at clean images, the paper's beta; 0 leaves the student's clean pass out.
        clip_mirror: Whether to clip ``x - d`` to [0, 1]. The paper does not.
        steps: Number of PGD steps.
        step_size: Step length in pixels in [0, 1]; None is eps / 4.
        entropy_order: Order of the Renyi entropy, above 0; 1 is Shannon's.
    """

    entropy_scale: float = coefficient(5.0, 1, 20)
    difference_weight: float = coefficient(1.0, 0.1, 20)
    clean_weight: float = 0.0
    clip_mirror: bool = False
    steps: int = 10
    step_size: float | None = None
    entropy_order: float = added_option(1.0)

    @property
    def needs(self) -> Needs:
        """The attack does not query the teacher; the loss does at x, x + d and x - d."""
        clean = int(self.clean_weight > 0)
        return Needs(
            student=Passes(self.steps + 2 + clean, self.steps + 2 + clean),
            teacher=Passes(3, 1),
            teacher_gradient=True,
            teacher_queries=True,
            gradient_of="logit",
            train_forwards=2 + clean,
            couples_batch=True,
        )

    def __call__(self, step: StepContext) -> Objective:
        """Attack the student, then return the weighted imitation, difference and, with a weight, clean term."""
        adv_images = self._attack(step)
        adv_logits, target = step.at(adv_images).logits, step.teacher_at(adv_images)
        mirrored = mirror(step, adv_images, clip=self.clip_mirror)
        difference = losses.kl(adv_logits - step.at(mirrored).logits, target - step.teacher_at(mirrored))
        uncertainty, shard = losses.entropy(target, self.entropy_order), batch_shards.current_shard()
        weight = self.entropy_scale * (uncertainty - shard.gather(uncertainty.min()).min())
        terms = [
            Term("teacher", 1.0, (weight * losses.kl(adv_logits, target)).mean()),
            Term("difference", self.difference_weight * step.progress, (weight * difference).mean()),
        ]
        if self.clean_weight:
            share = weight / shard.gather(weight.max()).max().clamp_min(torch.finfo(weight.dtype).tiny)
            clean = (1 - share) * losses.kl(step.clean.logits, step.teacher.logits)
            terms.append(Term("clean", self.clean_weight, clean.mean()))
        return Objective(tuple(terms))

    def _attack(self, step: StepContext) -> Tensor:
        images, slope, clean_target = step.batch.images, step.teacher_gradient, step.teacher.logits
        true = losses.label_probabilities(step.batch.labels, clean_target)

        def distance(adv_images: Tensor) -> Tensor:
            rise = (slope * (adv_images - images)).flatten(1).sum(1)
            return losses.kl(step.predict(adv_images), clean_target + true * rise[:, None])

        return step.attack(distance, steps=self.steps, step_size=self.step_size, start="near")
