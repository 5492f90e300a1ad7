"""Lightning with automatic optimisation, bfloat16 and gradient accumulation.

python examples/lightning_automatic.py TEACHER EPOCHS
"""

import sys

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

import kdiga


class Distillation(lightning.LightningModule):
    """A student in training; the teacher is a submodule, so that it moves to the student's device."""

    def __init__(self, teacher: torch.nn.Module) -> None:
        super().__init__()
        self.student = kdiga.load_model("cnn-8", in_channels=1, image_size=8)
        self.teacher = teacher.requires_grad_(False)
        self.distiller = None

    def on_train_start(self) -> None:
        """Build the distiller when the number of steps is known."""
        steps = self.trainer.max_epochs * self.trainer.num_training_batches
        self.distiller = kdiga.Distiller(
            self.student, self.teacher, method="tangent", threat="linf 0.1", total_steps=steps
        )

    def training_step(self, batch: list[torch.Tensor], _index: int) -> torch.Tensor:
        """Return the loss of a batch, and log its terms."""
        output = self.distiller.output(*batch)
        self.log_dict(output.terms)
        return output.loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer of the student."""
        return torch.optim.AdamW(self.student.parameters(), lr=5e-3)


if __name__ == "__main__":
    torch.manual_seed(0)
    data = kdiga.load_data("digits")
    module = Distillation(kdiga.load_model(sys.argv[1]))
    trainer = lightning.Trainer(
        max_epochs=int(sys.argv[2]),
        precision="bf16-mixed",
        accumulate_grad_batches=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    images = TensorDataset(data.train.images.float() / 255, data.train.labels)
    trainer.fit(module, DataLoader(images, batch_size=32, shuffle=True))
    print(kdiga.evaluate(module.student, data.test.batches(), threat="linf 0.1")["pgd-20"])
