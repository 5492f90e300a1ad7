"""PeerAiD (Jung et al., 2024, arXiv:2403.06668): a peer that learns to resist attacks on the student."""

from __future__ import annotations

from kdiga import losses
from kdiga.gradients.student_pass import BatchNormMode
from kdiga.methods.ard import farthest_from_teacher
from kdiga.methods.base import CheckedOptions, Needs, Passes, coefficient, register
from kdiga.methods.context import StepContext
from kdiga.types import Objective, Term, added_option


@register("peeraid", paper="Jung et al. 2024, arXiv:2403.06668")
class PeerAiD(CheckedOptions):
    """Imitate a peer that is trained at the same time, at the same adversarial images.

    With ``P`` the peer, ``x_adv`` by PGD on ``KL(p_P(x) || p_S(x_adv))`` from a near start:

    - student: ``label_weight * CE(S(x_adv), y) + teacher_weight * t**2 KL(p_P(x_adv) || p_S(x_adv))
      + self_weight * t**2 KL(p_S(x) || p_S(x_adv))``, ``t`` the temperature;
    - peer: ``peer_label_weight * CE(P(x_adv), y) + peer_weight * r**2 KL(p_S(x_adv) || p_P(x_adv))``, ``r``
      the peer's temperature.

    The peer is the run's teacher: it usually starts from fresh weights, and the same optimizer trains it. As a
    target it is in eval mode by default. As published, targets from the student are not detached, so the peer's loss
    trains the student as well.

    The paper averages KL over the classes; its weights for CIFAR-10 (0, 1, 1; 1, 0.1) are a tenth of that
    here for the KL terms, since these sum over 10 classes.

    Args:
        label_weight: Weight of the student's cross-entropy.
        teacher_weight: Weight of the imitation of the peer.
        self_weight: Weight of the self-imitation, the student's clean output being the target.
        temperature: Temperature of both imitations, above 0.
        peer_label_weight: Weight of the peer's cross-entropy.
        peer_weight: Weight of the peer's imitation of the student.
        peer_temperature: Temperature of the peer's imitation, above 0.
        detach_targets: Whether to detach targets from the student.
        steps: Number of PGD steps.
        step_size: Step length in pixels in [0, 1]; None is eps / 4.
        target_mode: Mode of the peer as the target at ``x_adv``: "eval", or "train" as in the authors' code, which
            takes the peer's own training pass, detached.
    """

    label_weight: float = 0.0
    teacher_weight: float = coefficient(0.1, 0.025, 0.4)
    self_weight: float = coefficient(0.1, 0.025, 0.4)
    temperature: float = 5.0
    peer_label_weight: float = 1.0
    peer_weight: float = 0.01
    peer_temperature: float = 1.0
    detach_targets: bool = False
    steps: int = 10
    step_size: float | None = None
    target_mode: BatchNormMode = added_option("eval")

    @property
    def needs(self) -> Needs:
        """The attack and two more passes; the peer is a target at x and at x_adv, and runs once in training."""
        return Needs(
            student=Passes(self.steps + 2, self.steps + 2),
            teacher=Passes(3 if self.target_mode == "eval" else 2, 1),
            teacher_queries=True,
            trains_teacher=True,
            train_forwards=2,
            label_loss=self.label_weight + self.peer_label_weight > 0,
        )

    def __call__(self, step: StepContext) -> Objective:
        """Attack the student, then return its terms and the peer's."""
        adv_images = farthest_from_teacher(step, steps=self.steps, step_size=self.step_size)
        # Before the peer's pass moves its running statistics.
        target = step.teacher_at(adv_images) if self.target_mode == "eval" else None
        adv, peer_logits = step.at(adv_images), step.guide(adv_images)
        reply, own = adv.logits, step.clean.logits
        if self.detach_targets:
            reply, own = reply.detach(), own.detach()
        imitation = losses.kl(adv.logits, peer_logits.detach() if target is None else target, self.temperature)
        peer_loss = losses.cross_entropy(peer_logits, step.batch.labels, step.settings.label_smoothing)
        terms = [
            Term("teacher", self.teacher_weight, imitation.mean()),
            Term("self", self.self_weight, losses.kl(adv.logits, own, self.temperature).mean()),
            Term("peer-label", self.peer_label_weight, peer_loss.mean()),
            Term("peer", self.peer_weight, losses.kl(peer_logits, reply, self.peer_temperature).mean()),
        ]
        if self.label_weight:
            terms.append(Term("label", self.label_weight, adv.losses.mean()))
        return Objective(tuple(terms))
