"""Hugging Face Accelerate: devices, precision, accumulation and processes by ``accelerate launch``.

python examples/accelerate_loop.py TEACHER EPOCHS
"""

import sys

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

import kdiga

torch.manual_seed(0)
data, epochs = kdiga.load_data("digits"), int(sys.argv[2])
accelerator = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=2)
student = kdiga.load_model("cnn-8", in_channels=1, image_size=8).train()
teacher = kdiga.load_model(sys.argv[1]).to(accelerator.device)
optimizer = torch.optim.AdamW(student.parameters(), lr=5e-3)
images = TensorDataset(data.train.images.float() / 255, data.train.labels)
student, optimizer, loader = accelerator.prepare(student, optimizer, DataLoader(images, batch_size=32, shuffle=True))
distiller = kdiga.Distiller(student, teacher, method="tangent", threat="linf 0.1", total_steps=epochs * len(loader))
accelerator.register_for_checkpointing(distiller)  # save_state and load_state include it
for _ in range(epochs):
    for images, labels in loader:
        with accelerator.accumulate(student), accelerator.autocast():
            accelerator.backward(distiller(images, labels))
            optimizer.step()
            optimizer.zero_grad()
student = accelerator.unwrap_model(student, keep_fp32_wrapper=False)
accelerator.print(kdiga.evaluate(student, data.test.batches(), threat="linf 0.1")["pgd-20"])
