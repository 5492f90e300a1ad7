"""The loop of timm's training script: its optimizer, schedule, moving average and autocast.

python examples/timm_script.py TEACHER EPOCHS
"""

import sys

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, ModelEmaV3, dispatch_clip_grad

import kdiga

torch.manual_seed(0)
data, epochs = kdiga.load_data("digits"), int(sys.argv[2])
batches = list(data.train.batches(64))
student = kdiga.load_model("cnn-8", in_channels=1, image_size=8)
teacher = kdiga.load_model(sys.argv[1])
optimizer = create_optimizer_v2(student, opt="adamw", lr=5e-3, weight_decay=5e-4)
scheduler, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=epochs, warmup_epochs=0)
average = ModelEmaV3(student, decay=0.98)
# In the place of loss_fn: it calls the student itself.
distiller = kdiga.Distiller(student, teacher, method="tangent", threat="linf 0.1", total_steps=epochs * len(batches))
for epoch in range(epochs):
    student.train()
    meter = AverageMeter()
    for images, labels in batches:
        with torch.autocast("cpu", torch.bfloat16):
            loss = distiller(images, labels)
        optimizer.zero_grad()
        loss.backward()
        dispatch_clip_grad(student.parameters(), 5.0)
        optimizer.step()
        average.update(student)
        meter.update(loss.item(), len(images))
    scheduler.step(epoch + 1)
print(kdiga.evaluate(average.module, data.test.batches(), threat="linf 0.1")["pgd-20"])
