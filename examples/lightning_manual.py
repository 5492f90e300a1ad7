"""Lightning with manual optimisation, and the distiller's state in the checkpoint.

python examples/lightning_manual.py TEACHER EPOCHS
"""

import sys
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

import kdiga


class Distillation(lightning.LightningModule):
    """A student in training, and its distiller."""

    def __init__(self, teacher: torch.nn.Module, steps: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.student = kdiga.load_model("cnn-8", in_channels=1, image_size=8)
        self.teacher = teacher.requires_grad_(False)
        self.distiller = kdiga.Distiller(
            self.student, teacher, method="kdiga", gradient_weight=2, threat="linf 0.1", total_steps=steps
        )

    def training_step(self, batch: list[torch.Tensor], _index: int) -> None:
        """Take a step."""
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.distiller(*batch))
        optimizer.step()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer of the student."""
        return torch.optim.AdamW(self.student.parameters(), lr=5e-3)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the number of steps, which ramps follow."""
        checkpoint["distiller"] = self.distiller.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.distiller.load_state_dict(checkpoint["distiller"])


if __name__ == "__main__":
    torch.manual_seed(0)
    data, epochs = kdiga.load_data("digits"), int(sys.argv[2])
    images = TensorDataset(data.train.images.float() / 255, data.train.labels)
    loader = DataLoader(images, batch_size=64, shuffle=True)
    module = Distillation(kdiga.load_model(sys.argv[1]), epochs * len(loader))
    trainer = lightning.Trainer(max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(module, loader)
    print(kdiga.evaluate(module.student, data.test.batches(), threat="linf 0.1")["pgd-20"])
