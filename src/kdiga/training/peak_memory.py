"""How much memory a step takes at its peak, and how to make it less."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from kdiga.methods import Method
from kdiga.training.settings import TrainingSettings


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """Return the most bytes that tensors held at once while the step ran, beyond what was held before.

    On a CUDA device by its allocator's own counter; on a CPU by following every allocation and release
    that PyTorch's profiler reports, temporary buffers of its kernels included.

    Args:
        step: called once.
        device: that it runs on.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted(
        (event["ts"], event["args"]["Bytes"])
        for event in events
        if event.get("name") == "[memory]" and event["args"].get("Device Type") == 0
    )
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


def what_to_reduce(method: Method, settings: TrainingSettings) -> str:
    """Return what to reduce if a run takes more memory than there is.

    Args:
        method: of the run.
        settings: of the run.
    """
    parts = settings.accumulate * 2
    in_parts = (
        ""
        if method.needs.couples_batch or settings.batch_size % parts
        else (
            f"set training.accumulate to {parts}, which takes each batch in parts to the same result and with which an "
            "interrupted run may go on by --resume, or "
        )
    )
    return f"batches of {settings.batch_size} images were too large; {in_parts}reduce training.batch_size."
