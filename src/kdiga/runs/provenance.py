"""The provenance of a result: versions, hardware, date."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PACKAGES = ("kdiga", "torch", "torchvision", "timm", "accelerate", "pyautoattack", "numpy")


def provenance(device: torch.device | None = None) -> dict[str, Any]:
    """Return versions, hardware and the date as plain data; None for the device is the CPU."""
    import torch  # here, so that the rest of the module works without it

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | {name: installed_version(name) for name in PACKAGES},
        "hardware": {
            "processor": processor_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "accelerator": torch.cuda.get_device_name(device) if device and device.type == "cuda" else None,
        },
    }


def call_of(function: str, *given: str, **options: Any) -> str:
    """Return a call of a public function, which its result states in place of a command line."""
    return f"kdiga.{function}({', '.join([*given, *(f'{name}={value!r}' for name, value in options.items())])})"


@cache
def installed_version(package: str) -> str | None:
    """Return a package's version, None if it is not installed; cached, since a call takes a millisecond."""
    from importlib.metadata import PackageNotFoundError, version  # here, so that --help does not wait for it

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def processor_name() -> str:
    """Return the name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
