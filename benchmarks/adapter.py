"""Cost of the classifier around a network, as a share of a plain training step of the network.

    python benchmarks/adapter.py --models resnet20,timm:mobilenetv3_small_100 --repeats 20

The cost is the forward pass through ``fit`` and ``normalize``, without a resize, and the backward pass to the images.
The benchmark times it alone, many times, and divides it by a step of the network on normalised images in the same
repeat: the difference of two steps is smaller than the noise of the machine. Times are processor times of this process.
Weights and images are random, because time does not depend on them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

import kdiga
from kdiga.model_state import seeded


def per_call(call: Callable[[], object], calls: int) -> float:
    """Return the processor seconds per call."""
    begin = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - begin) / calls


def measure(name: str, *, size: int, batch: int, repeats: int, calls: int) -> Sequence[float]:
    """Return the share of each repeat."""
    with seeded(0):
        model = kdiga.load_model(name, image_size=size, normalization="cifar10").train()
        images, labels = torch.rand(batch, 3, size, size), torch.randint(0, 10, (batch,))
    normalised = model.normalize(images).requires_grad_()
    gradient = torch.rand_like(images)
    images.requires_grad_()

    def around() -> None:
        images.grad = None
        model.normalize(model.fit(images)).backward(gradient)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        normalised.grad = None
        F.cross_entropy(model.network(normalised), labels).backward()

    per_call(around, 2)
    per_call(step, 1)
    return [per_call(around, calls) / per_call(step, 1) for _ in range(repeats)]


def main() -> None:
    """Print the median share and its quartiles, one line per model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="resnet20,timm:mobilenetv3_small_100")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--calls", type=int, default=10)
    given = parser.parse_args()
    for name in given.models.split(","):
        shares = measure(name, size=given.size, batch=given.batch, repeats=given.repeats, calls=given.calls)
        low, middle, high = statistics.quantiles(shares, n=4)
        print(f"{name}: {middle:.2%} of a step, quartiles {low:.2%} to {high:.2%}, {len(shares)} repeats")


if __name__ == "__main__":
    main()
