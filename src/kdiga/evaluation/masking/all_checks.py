"""All masking checks on one model, cheap ones first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdiga.checks import check_images, check_labels, check_same_classes
from kdiga.errors import InputError
from kdiga.evaluation.masking import forward_pass, gradient_attacks, gradient_free, margin_gradient
from kdiga.evaluation.masking.check_context import CheckContext, DifferentiableModel, NotFiniteError
from kdiga.evaluation.masking.finding import Finding
from kdiga.evaluation.stages import AttackSettings
from kdiga.model_output import logits_at
from kdiga.model_state import device_of, evaluating, frozen_parameters, frozen_statistics, seeded
from kdiga.runs.fingerprints import fingerprint_of_model
from kdiga.runs.provenance import installed_version
from kdiga.runs.work_units import OnProgress, ResultCache
from kdiga.types import ThreatModel

EXAMPLES = 100
BATCH_SIZE = 50  # examples measured and cached together
FEWEST = 20  # correctly classified examples; fewer cannot tell 2 % from 20 %


class Check(NamedTuple):
    """A masking check.

    Args:
        name: Name of its finding.
        run: Function from a context to a finding.
        attacks: Whether it attacks correctly classified examples; it then needs 20 of them and eps above 0.
    """

    name: str
    run: Callable[[CheckContext], Finding]
    attacks: bool = True


CHECKS: tuple[Check, ...] = (
    Check("uses-input", forward_pass.uses_input, attacks=False),
    Check("eval-mode", forward_pass.eval_mode, attacks=False),
    Check("deterministic", forward_pass.deterministic, attacks=False),
    Check("batch-independent", forward_pass.batch_independent, attacks=False),
    Check("logits", forward_pass.returns_logits, attacks=False),
    Check("flat-loss", margin_gradient.flat_loss),
    Check("true-gradient", margin_gradient.true_gradient),
    Check("more-steps", gradient_attacks.more_steps),
    Check("saturation", gradient_attacks.saturation),
    Check("random-search", gradient_free.random_search),
    Check("transfer", gradient_free.transfer),
    Check("large-eps", gradient_attacks.large_eps),
    Check("black-box", gradient_free.black_box),
    Check("decision-based", gradient_free.decision_based),
)


def check_masking(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    threat: ThreatModel,
    seed: int,
    teacher: nn.Module | None = None,
    transfer_from: Mapping[str, nn.Module] | None = None,
    result_cache: ResultCache | None = None,
    fingerprint: str = "",
    on_progress: OnProgress | None = None,
    examples: int = EXAMPLES,
    checks: Sequence[Check] = CHECKS,
) -> list[Finding]:
    """Return findings for and against the robust accuracy that gradient attacks measure on a model.

    The checks follow Athalye et al. (2018, section 3.1), the list of Carlini et al. (2019) and AutoAttack's flags.
    Checks that attack use the first correctly classified examples, the others the first images, classified correctly
    or not. The model runs in eval mode and is left unchanged.

    Args:
        model: Network from images to logits (batch, num_classes).
        images: Images, float (example, channel, height, width), pixels in [0, 1], misclassified ones included.
        labels: Labels, int (example,).
        threat: Threat model whose robust accuracy is checked.
        seed: Seed of random starts.
        teacher: Network whose adversarial images are tried on the model.
        transfer_from: More such networks, by name; without any and without a teacher that check is skipped.
        result_cache: Cache of finished measurements; None caches nothing.
        fingerprint: Fingerprint of the model; "" computes it.
        on_progress: Function called with the measurement, examples done and examples in total.
        examples: Largest number of examples to use, at least 1.
        checks: Checks to run.

    Returns:
        One finding for each check, in their order.

    Raises:
        InputError: If images or labels are out of range, there is no example, the model does not return finite logits
            of at least two classes, or one of the other networks has another number of classes.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    >>> findings = check_masking(model.eval(), torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 2]),
    ...                          threat=ThreatModel("linf", 0.1), seed=0)
    >>> findings[0].name, findings[-1].verdict
    ('uses-input', 'skipped')
    """
    check_images(images)
    check_labels(labels, images)
    if not len(images) or examples < 1:
        raise InputError(
            f"{len(images)} images were given, examples was {examples}; masking checks need at least one of each."
        )
    for name, one in (transfer_from or {}).items():
        if not isinstance(one, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"transfer_from[{name!r:.60}] was {type(one).__name__}; give a torch.nn.Module.")
    device = device_of(model, images.device)
    others = ({} if teacher is None else {"teacher": teacher}) | dict(transfer_from or {})
    images, labels = images.detach().to(device), labels.long().to(device)
    with seeded(seed):
        training = [name or "the model itself" for name, module in model.named_modules() if module.training]
        initial_logits = _initial_logits(model, images[:examples]) if training else None
        with ExitStack() as inside:
            for network in (model, *others.values()):
                inside.enter_context(evaluating(network))
                inside.enter_context(frozen_parameters(network))
            differentiable = DifferentiableModel(model)
            rows = _correct_rows(differentiable, images, labels, examples)
            context = CheckContext(
                model=differentiable,
                sources={name: _checked_source(name, one, differentiable, images) for name, one in others.items()},
                given_images=images[:examples],
                given_labels=labels[:examples],
                images=images[rows],
                labels=labels[rows],
                settings=AttackSettings(threat, seed, BATCH_SIZE, result_cache or ResultCache(), on_progress),
                training=training,
                initial_logits=initial_logits,
                identity={
                    "model": fingerprint or fingerprint_of_model(model, images),
                    "versions": {name: installed_version(name) for name in ("kdiga", "torch", "pyautoattack")},
                },
            )
            return [_run(check, context) for check in checks]


def _run(check: Check, context: CheckContext) -> Finding:
    count = len(context.labels)
    if check.attacks and context.threat.eps == 0:
        return Finding(check.name, "skipped", "eps is 0, so there is nothing to attack.", {})
    if check.attacks and context.threat.norm == "l1":
        return Finding(check.name, "skipped", "the check is not defined under L1.", {})
    if check.attacks and count < FEWEST:
        message = f"the model classifies {count} examples correctly; the check needs {FEWEST}."
        return Finding(check.name, "skipped", message, {"examples": count})
    try:
        return check.run(context)
    except NotFiniteError as error:
        return Finding(check.name, "failed", str(error), {})


def _initial_logits(model: nn.Module, images: Tensor) -> Tensor | None:
    with torch.no_grad(), frozen_statistics(model):
        try:
            return logits_at(model, images)
        except ValueError:  # batch norm refuses a single value a channel
            return None


@torch.no_grad()
def _checked_source(name: str, source: nn.Module, model: nn.Module, images: Tensor) -> DifferentiableModel:
    differentiable = DifferentiableModel(source, name if name == "teacher" else f"model {name!r}")
    check_same_classes(model(images[:1]), differentiable(images[:1]))
    return differentiable


@torch.no_grad()
def _correct_rows(model: nn.Module, images: Tensor, labels: Tensor, most: int) -> Tensor:
    """Return the indices of the first ``most`` correctly classified examples."""
    found, count = list[Tensor](), 0
    for start in range(0, len(images), EXAMPLES):
        logits = model(images[start : start + EXAMPLES])
        if logits.dim() != 2 or logits.shape[1] < 2:
            raise InputError(
                f"the model returned shape {tuple(logits.shape)}; it must be (batch, num_classes) logits of at least "
                "two classes."
            )
        answers = labels[start : start + EXAMPLES]
        check_labels(answers, logits, logits.shape[1])
        found.append(start + (logits.argmax(1) == answers).nonzero()[:, 0])
        count += len(found[-1])
        if count >= most:
            break
    return torch.cat(found)[:most]
