"""The training settings of a run, for every method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from kdiga.arguments import check_fields
from kdiga.errors import InputError, check_at_least, check_known, unknown
from kdiga.gradients.routes import ROUTES, FiniteDifference
from kdiga.gradients.student_pass import BatchNormMode
from kdiga.types import added_option

Optimizer = Literal["adamw", "sgd"]
Schedule = Literal["one-cycle", "multi-step", "cosine", "constant"]
Precision = Literal["fp32", "bf16", "auto"]
Flag = Literal[True, False, "auto"]
Selection = Literal["robust", "clean", "mean"]


MOST_SEEDS = 2**32  # scikit-learn's limit, which cuts the validation images


@dataclass(frozen=True)
class TrainingSettings:
    """All settings of a run except models, data, method and threat model.

    Args:
        epochs: Number of epochs, at least 1.
        batch_size: Examples a step, in all processes and micro-batches together. Their number changes speed and
            memory, not the result.
        accumulate: Number of micro-batches of a process's batch, run one after another to save memory.
        optimizer: "adamw" or "sgd" (with momentum, without Nesterov).
        lr: Peak learning rate.
        weight_decay: Weight decay, decoupled for adamw, L2 for sgd.
        momentum: Momentum of sgd.
        schedule: "one-cycle" (warm-up over the first 30 %, then cosine to zero), "multi-step", "cosine" or
            "constant", updated every step.
        milestones: Fractions of the training at which "multi-step" divides the rate by 10.
        layer_decay: Factor of the rate for each layer farther from the head, in (0, 1]; 0.65 to 0.9 for a pre-trained
            transformer. 1 gives all layers the same rate.
        freeze: Parameters to freeze: a name or pattern such as "network.blocks.0.*", a list of them, or
            "all but head". Running statistics of frozen batch norm do not change.
        decay_norms_and_biases: Whether norms, biases and position embeddings have weight decay.
        grad_clip: Largest norm of the parameter gradient; 0 for no limit.
        warmup: Share of the training, in [0, 1), over which the rate rises linearly from 0. For every schedule except
            "one-cycle", which has a warm-up.
        label_smoothing: Share of the uniform distribution in the labels of all label losses, in [0, 1) (Szegedy et
            al., 2016). Attacks, input gradients and gaps use the labels as they are. Refused for a method without a
            label loss.
        awp: Size of adversarial weight perturbations relative to the norm of each weight tensor (Wu et al., 2020,
            arXiv:2004.05884), such as 0.005; 0 for none. Each step costs one more pass of every network outside
            attacks; attacks are made once. See :class:`kdiga.training.weight_perturbation.WeightPerturbation`.
        ema: Decay of a moving average of weights and batch norm's statistics, in [0, 1), such as 0.999; 0 for none.
            The average, if there is one, is validated and saved as the best and the last weights.
        swa: Share of the training, in [0, 1), after which the weights of epochs are averaged with equal shares
            (Izmailov et al., 2018, arXiv:1803.05407), such as 0.75; None for none. The average is validated and saved
            in place of the student. Batch norm's statistics are those of the average on the training images, which
            costs one forward pass of all of them after each averaged epoch.
        augment: "none", "crop", "crop-flip", "resized-crop-flip", "randaugment" or "trivialaugment".
        blend: "mixup" or "cutmix" blends the images and labels of each batch; teachers see the blended images. "none"
            for neither.
        route: Route of methods that train through an input gradient: "exact", "exact-pytorch" (the same by PyTorch's
            slower second derivatives), "finite-difference" (central) or "one-sided"; "auto" is exact if the student
            can be differentiated twice.
        probe: L2 length of a finite difference's step for an example, in pixels; None is safe for the precision.
        attack_batch_norm: Mode of the student's batch norm during attacks: "eval" (running statistics) or "train"
            (statistics of the batch; running statistics do not change).
        alignment_batch_norm: Mode of the student's batch norm for its input gradient: "train" (one forward pass for
            logits and gradient) or "eval" (a separate forward pass).
        sync_batch_norm: Whether batch norm in train mode uses the statistics of the whole batch in several processes;
            otherwise each process uses those of its part.
        precision: "fp32", "bf16" for autocast, which is faster on a CPU only with AMX, or "auto".
        channels_last: Memory layout of images and convolutions; faster on most hardware. Or "auto".
        compile: Whether student, teacher and attack run by torch.compile where they are differentiated once; this
            takes half a minute and more at the start. Or "auto". "auto" of these three settings is the fastest value
            in a few steps, with compiling only if the run is long enough to save the time again.
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        seed: Seed of weights, order, augmentation, attacks and the validation split.
        validation_share: Fraction of the training examples to hold out if no validation set is given.
        validation_examples: Number of validation examples in each epoch's check.
        validation_steps: Number of PGD steps of the check, with step size eps / 4.
        save_every: Minutes between saves of the whole state, for an interrupted run to continue from; 0 saves only
            after each epoch.
        validate_every: Number of epochs between checks; the last epoch always has a check.
        select: Score that chooses the best checkpoint: "robust" (PGD) or "clean" validation accuracy, or their
            "mean". The test set is not used.
        stop_at_chance: Whether to end a run in its second half if its student is no better than guessing on the
            validation images and its loss does not fall.

    Raises:
        InputError: If values are out of range or names unknown.
    """

    epochs: int = 30
    batch_size: int = 128
    accumulate: int = 1
    optimizer: Optimizer = "adamw"
    lr: float = 2e-3
    weight_decay: float = 5e-4
    momentum: float = 0.9
    schedule: Schedule = "one-cycle"
    milestones: tuple[float, ...] = (0.5, 0.75)
    layer_decay: float = 1.0
    freeze: str | tuple[str, ...] = ()
    decay_norms_and_biases: bool = True
    grad_clip: float = 0.0
    ema: float = 0.0
    swa: float | None = added_option(None)
    warmup: float = added_option(0.0)
    label_smoothing: float = added_option(0.0)
    awp: float = added_option(0.0)
    augment: str = "none"
    blend: Literal["none", "mixup", "cutmix"] = added_option("none")
    route: str = "auto"
    probe: float | None = None
    attack_batch_norm: BatchNormMode = "eval"
    alignment_batch_norm: BatchNormMode = "train"
    sync_batch_norm: bool = False
    precision: Precision = "fp32"
    channels_last: Flag = True
    compile: Flag = False
    device: str = "auto"
    seed: int = 0
    validation_share: float = 0.1
    validation_examples: int = 1000
    validation_steps: int = 10
    validate_every: int = 1
    save_every: float = 10.0
    select: Selection = "robust"
    stop_at_chance: bool = added_option(True)

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("epochs", "batch_size", "accumulate", "validation_steps", "validate_every", "validation_examples"):
            check_at_least(1, **{name: getattr(self, name)})
        self._check_rates()
        self._check_shares()
        object.__setattr__(self, "freeze", (self.freeze,) if isinstance(self.freeze, str) else tuple(self.freeze))
        if not self.save_every >= 0:
            raise InputError(f"save_every was {self.save_every!r}; it is a number of minutes of at least 0.")
        self._check_combinations()
        check_known("route", self.route, ("auto", *ROUTES))
        FiniteDifference(self.probe)
        shares = [share for share in self.milestones if type(share) in (int, float) and 0 < share < 1]
        if shares != sorted(shares) or len(shares) < len(self.milestones):
            raise InputError(f"milestones were {self.milestones}; they are rising shares of the training, in (0, 1).")

    def _check_rates(self) -> None:
        if not self.lr > 0:
            raise InputError(f"lr was {self.lr!r}; it must be above 0.")
        if self.lr == math.inf:
            raise InputError("lr was inf; it must be finite.")
        for name in ("weight_decay", "grad_clip", "awp"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} was {getattr(self, name)!r}; it must be a finite number of at least 0.")
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum was {self.momentum!r}; it must be in [0, 1), for example 0.9.")
        if not 0 <= self.seed < MOST_SEEDS:
            raise InputError(f"seed was {self.seed!r}; it must be a whole number from 0 to {MOST_SEEDS - 1}.")
        if not 0 < self.layer_decay <= 1:
            raise InputError(
                f"layer_decay was {self.layer_decay!r}; it is a factor a layer in (0, 1]; 1 gives all one rate."
            )
        if not 0 <= self.ema < 1:
            raise InputError(f"ema was {self.ema!r}; it is a decay in [0, 1), for example 0.999, and 0 for none.")

    def _check_shares(self) -> None:
        for name in ("warmup", "label_smoothing", "swa"):
            if not 0 <= (getattr(self, name) or 0) < 1:
                raise InputError(f"{name} was {getattr(self, name)!r}; it is a share in [0, 1).")
        if self.ema and self.swa is not None:
            raise InputError(
                f"ema was {self.ema!r} and swa {self.swa!r}; a run saves one average of the weights. Leave one out."
            )
        if self.warmup and self.schedule == "one-cycle":
            raise InputError(
                f"warmup was {self.warmup!r} with schedule one-cycle, which warms up over its first 30 %; leave warmup "
                "out, or use schedule cosine, multi-step or constant."
            )

    def _check_combinations(self) -> None:
        if self.batch_size % self.accumulate:
            raise InputError(
                f"accumulate was {self.accumulate} and batch_size {self.batch_size}; choose a number of micro-batches "
                "that divides the batch."
            )
        if self.sync_batch_norm and self.compile is not False:
            raise InputError(
                "sync_batch_norm was true and compile not false; a compiled network cannot communicate with other "
                "processes. Turn one of them off."
            )

    @classmethod
    def from_keywords(
        cls, epochs: int, keywords: Mapping[str, Any], also: str = "", more: Sequence[str] = ()
    ) -> TrainingSettings:
        """Return the settings of keywords.

        Args:
            epochs: Number of epochs.
            keywords: Fields of this class and their values.
            also: Description of other keywords that the caller accepts, for the error.
            more: Names of these keywords.

        Raises:
            InputError: If a keyword is unknown.
        """
        names = [field.name for field in fields(cls)]
        for name in keywords:
            if name not in names:
                raise unknown(f"training setting{' or ' if also else ''}{also}", name, [*names, *more])
        return cls(epochs=epochs, **keywords)
