"""All checks on one model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from kdiga.checks import check_images, check_labels, check_same_classes
from kdiga.errors import InputError
from kdiga.evaluation.masking.exposed import Exposed
from kdiga.evaluation.masking.finding import Finding
from kdiga.evaluation.masking.probe import HandedIn, Probe
from kdiga.evaluation.masking.registry import CHECKS, Check
from kdiga.model_state import device_of, evaluating, frozen_parameters, frozen_statistics, seeded
from kdiga.runs.fingerprints import fingerprint_of_model
from kdiga.runs.provenance import installed_version
from kdiga.runs.work_units import OnProgress, ResultCache
from kdiga.types import ThreatModel

EXAMPLES = 100
FEWEST = 20  # right examples; fewer cannot tell 2 % from 20 %


def check_masking(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    threat: ThreatModel,
    seed: int,
    teacher: nn.Module | None = None,
    result_cache: ResultCache | None = None,
    fingerprint: str = "",
    on_progress: OnProgress | None = None,
    examples: int = EXAMPLES,
    checks: Sequence[Check] = CHECKS,
) -> list[Finding]:
    """Return what speaks for and against the robust accuracy that gradient attacks measure on a model.

    The checks follow Athalye et al. (2018, section 3.1), the list of Carlini et al. (2019) and AutoAttack's flags.
    Checks that attack look at the first examples that the model gets right, the others at the first images, right or
    wrong. The model runs in eval mode and is left as found.

    Args:
        model: maps images to logits (batch, num_classes).
        images: float (example, channel, height, width), pixels in [0, 1]; the misclassified may be among them.
        labels: int (example,).
        threat: the ball whose robust accuracy is in question.
        seed: of random starts.
        teacher: whose adversarial images are tried on the model; None skips that check.
        result_cache: where finished measurements are kept; None keeps none.
        fingerprint: of the model; "" for it to be made here.
        on_progress: told what is measured, examples done and examples in all.
        examples: how many are looked at, at most.
        checks: those that are made.

    Returns:
        one finding a check, in their order.

    Raises:
        InputError: for images or labels out of range, no example, a model that returns something other than
            finite logits of at least two classes, or a teacher of another number of classes.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    >>> findings = check_masking(model.eval(), torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 2]),
    ...                          threat=ThreatModel("linf", 0.1), seed=0)
    >>> findings[0].name, findings[-1].verdict
    ('uses-input', 'skipped')
    """
    check_images(images)
    check_labels(labels, images)
    if not len(images) or examples < 1:
        raise InputError(f"{len(images)} images were given, {examples} to look at; masking checks need at least one.")
    device = device_of(model, images.device)
    images, labels = images.detach().to(device), labels.long().to(device)
    with seeded(seed):
        handed_in = _handed_in(model, images[:examples])
        with ExitStack() as inside:
            for network in (model,) if teacher is None else (model, teacher):
                inside.enter_context(evaluating(network))
                inside.enter_context(frozen_parameters(network))
            exposed = Exposed(model)
            right = _right(exposed, images, labels, examples)
            taught = None if teacher is None else _checked_teacher(teacher, exposed, images)
            probe = Probe(
                model=exposed,
                teacher=taught,
                shown=images[:examples],
                shown_labels=labels[:examples],
                images=images[right],
                labels=labels[right],
                threat=threat,
                seed=seed,
                handed_in=handed_in,
                result_cache=result_cache or ResultCache(),
                on_progress=on_progress,
                about={
                    "model": fingerprint or fingerprint_of_model(model),
                    "versions": {name: installed_version(name) for name in ("kdiga", "torch", "pyautoattack")},
                },
            )
            return [_make(check, probe) for check in checks]


def _make(check: Check, probe: Probe) -> Finding:
    count = len(probe.labels)
    if check.attacks and probe.threat.eps == 0:
        return Finding(check.name, "skipped", "eps is 0, so there is nothing to attack.", {})
    if check.attacks and count < FEWEST:
        message = f"the model gets {count} examples right; the check needs {FEWEST}."
        return Finding(check.name, "skipped", message, {"examples": count})
    return check.make(probe)


def _handed_in(model: nn.Module, images: Tensor) -> HandedIn:
    """Return the model's modes, and its answers in them if not all is in eval mode."""
    training = [name or "the model itself" for name, module in model.named_modules() if module.training]
    if not training:
        return HandedIn(training, None)
    with torch.no_grad(), frozen_statistics(model):
        try:
            return HandedIn(training, model(images))
        except ValueError:  # batch norm refuses a single value a channel
            return HandedIn(training, None)


@torch.no_grad()
def _checked_teacher(teacher: nn.Module, model: nn.Module, images: Tensor) -> Exposed:
    exposed = Exposed(teacher, "teacher")
    check_same_classes(model(images[:1]), exposed(images[:1]))
    return exposed


@torch.no_grad()
def _right(model: nn.Module, images: Tensor, labels: Tensor, most: int) -> Tensor:
    """Return the places of the first examples that the model gets right, up to ``most``."""
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
