"""The Trainer of Hugging Face's transformers, by its ``compute_loss``, for a model of transformers.

python examples/hf_trainer.py TEACHER EPOCHS
"""

import sys
import tempfile
from typing import Any

import torch
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

import kdiga


class Logits(torch.nn.Module):
    """A model of transformers as a module that maps images to logits."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits, float (batch, num_classes)."""
        return self.model(pixel_values=images).logits


class Distillation(Trainer):
    """A Trainer whose loss is a distiller's."""

    def __init__(self, *args: Any, teacher: torch.nn.Module, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.teacher, self.distiller = teacher.to(self.args.device), None

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """Return the distiller's loss in training, and the model's own loss in evaluation."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, **kwargs)
        if self.distiller is None:  # only here is the model the one that was wrapped for several processes
            self.distiller = kdiga.Distiller(
                Logits(model), self.teacher, method="tangent", threat="linf 0.1", total_steps=self.state.max_steps
            )
        output = self.distiller.output(inputs["pixel_values"], inputs["labels"])
        return (output.loss, {"logits": output.logits}) if return_outputs else output.loss


torch.manual_seed(0)
data = kdiga.load_data("digits")
config = ViTConfig(
    image_size=8,
    patch_size=2,
    num_channels=1,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_labels=10,
)
model = ViTForImageClassification(config)
examples = [
    {"pixel_values": image.float() / 255, "labels": label}
    for image, label in zip(data.train.images, data.train.labels, strict=True)
]
with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder,
        num_train_epochs=int(sys.argv[2]),
        per_device_train_batch_size=64,
        learning_rate=5e-3,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    trainer = Distillation(model, arguments, train_dataset=examples, teacher=kdiga.load_model(sys.argv[1]))
    trainer.train()
print(kdiga.evaluate(Logits(model), data.test.batches(), threat="linf 0.1")["pgd-20"])
