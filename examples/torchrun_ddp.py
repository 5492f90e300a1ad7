"""PyTorch on several processes: each has its share of every batch, and DistributedDataParallel averages gradients.

torchrun --nproc-per-node 2 examples/torchrun_ddp.py TEACHER EPOCHS
"""

import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import kdiga

dist.init_process_group("gloo")
torch.manual_seed(0)
data, epochs = kdiga.load_data("digits"), int(sys.argv[2])
student = DistributedDataParallel(kdiga.load_model("cnn-8", in_channels=1, image_size=8).train())
teacher = kdiga.load_model(sys.argv[1])
examples = TensorDataset(data.train.images.float() / 255, data.train.labels)
sampler = DistributedSampler(examples)
loader = DataLoader(examples, batch_size=64 // dist.get_world_size(), sampler=sampler)
distiller = kdiga.Distiller(student, teacher, method="tangent", threat="linf 0.1", total_steps=epochs * len(loader))
optimizer = torch.optim.AdamW(distiller.parameters(), lr=5e-3)
torch.manual_seed(dist.get_rank())  # random starts and dropout of its own for each process
for epoch in range(epochs):
    sampler.set_epoch(epoch)
    for images, labels in loader:
        optimizer.zero_grad()
        distiller(images, labels).backward()
        optimizer.step()
if dist.get_rank() == 0:
    print(kdiga.evaluate(student.module, data.test.batches(), threat="linf 0.1")["pgd-20"])
dist.barrier()
dist.destroy_process_group()
