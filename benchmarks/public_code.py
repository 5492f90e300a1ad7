"""The size of differences between kdiga's methods and public code, on one batch of small networks with batch norm.

    python benchmarks/public_code.py

For each option that follows the public code: the relative change of the loss and of the student's parameter gradient,
and the cosine of the two gradients, as range over 5 seeds. Seconds, float64.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import kdiga
from kdiga.model_state import seeded

OPTIONS = {
    "GradAlign, first gradient detached": (
        {"name": "fast-at", "start": "clean", "gradalign_weight": 1.0},
        {"detach_first": True},
    ),
    "PeerAiD, target in train mode": ({"name": "peeraid"}, {"target_mode": "train"}),
    "IAD-II at temperature 3, self-target at 1": ({"name": "iad-ii", "temperature": 3.0}, {"self_temperature": 1.0}),
    "KDIGA, author's convention, two forwards": (
        {"name": "kdiga", "convention": "author", "gradient_weight": 10.0},
        {"second_forward": True},
    ),
}


def network(seed: int) -> nn.Module:
    """Return a small classifier whose running statistics are those of random images."""
    with seeded(seed):
        model = kdiga.load_model("resnet8", num_classes=10, in_channels=3, image_size=8)
        for _ in range(20):
            model.train()(torch.rand(16, 3, 8, 8))
    return model.double()


def step(method: dict[str, object], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss, the student's parameter gradient and its running statistics after a step."""
    student, teacher, second = network(seed), network(seed + 50), network(seed + 100)
    with seeded(seed):
        images, labels = torch.rand(16, 3, 8, 8).double(), torch.randint(0, 10, (16,))
        distiller = kdiga.Distiller(
            student.train(), teacher.train(), second_teacher=second.eval(), method=method, total_steps=1
        )
        distiller.step = 1  # past every ramp and beginning
        loss = distiller(images, labels)
    gradient = torch.autograd.grad(loss, list(student.parameters()))
    statistics = [one.flatten() for name, one in student.state_dict().items() if "running" in name]
    return loss.detach(), torch.cat([one.flatten() for one in gradient]), torch.cat(statistics)


def main() -> None:
    """Print a row for each option."""
    for name, (method, public) in OPTIONS.items():
        rows = list[tuple[float, ...]]()
        for seed in range(5):
            (loss, gradient, statistics), (public_loss, other, moved) = step(method, seed), step(method | public, seed)
            rows.append(
                (
                    100 * float(abs(public_loss - loss) / loss),
                    100 * float((other - gradient).norm() / gradient.norm()),
                    float(torch.cosine_similarity(gradient, other, dim=0)),
                    100 * float((moved - statistics).norm() / statistics.norm()),
                )
            )
        loss_change, change, cosine, batch_norm = ((min(one), max(one)) for one in zip(*rows, strict=True))
        print(
            f"{name}: loss {loss_change[0]:.1f} to {loss_change[1]:.1f} %, "
            f"gradient {change[0]:.1f} to {change[1]:.1f} %, "
            f"cosine {cosine[0]:.3f} to {cosine[1]:.3f}, statistics {batch_norm[0]:.1f} to {batch_norm[1]:.1f} %"
        )


if __name__ == "__main__":
    main()
