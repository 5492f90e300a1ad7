"""``kdiga doctor``: packages, devices, threads, disk and data of this machine. It downloads and stores nothing."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from kdiga.cli.command import command
from kdiga.cli.output import Output
from kdiga.cli.printing import say, show_table
from kdiga.runs.provenance import installed_version, processor_name

ESSENTIAL = ("torch", "torchvision", "timm", "accelerate", "pyautoattack")
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "datasets": ("datasets",),
    "hub": ("huggingface_hub",),
    "robustbench": ("robustbench",),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
}
LITTLE_DISK = 1e9  # bytes; a study of small models takes less
CORE_FLAGS = {"bf16": ("avx512_bf16", "amx_bf16"), "amx": ("amx_tile",)}


@command(quiet=False)
def doctor(output: Output) -> None:
    """Check whether this machine is ready; nothing is downloaded.

    It shows packages, devices, threads, disk and data. The exit status is 1 if something that kdiga needs is broken.

    Example: kdiga doctor
    """
    found = examine()
    show_table(output.console, ("", ""), _rows(found), words=("",))
    for line in found["warnings"]:
        say(output.console, f"warning: {line}", style="yellow")
    for line in found["problems"]:
        say(output.console, f"problem: {line}", style="red")
    if not found["problems"]:
        say(output.console, "Ready.")
    output.result(found)
    if found["problems"]:
        raise typer.Exit(1)


def _rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, one in found["versions"].items():
        yield name, one if isinstance(one, str) else (one["version"] or "missing") if one["imports"] else "broken"
    for name, one in found["extras"].items():
        versions = ", ".join(f"{package} {number}" for package, number in one["versions"].items() if number)
        yield f"extra {name}", one["get"] or versions
    processor, folder = found["processor"], found["folder"]
    parts = ", ".join(name for name, there in (("bf16", processor["bf16"]), ("AMX", processor["amx"])) if there)
    yield "processor", f"{processor['name']}, {processor['cores']} cores, {parts or 'no bf16 instructions'}"
    yield from _machine_rows(found)
    yield "this folder", f"{folder['free_bytes'] / 1e9:.1f} GB free, {'' if folder['writable'] else 'not '}writable"
    for name, place in found.get("data", {}).items():
        yield f"data {name}", place or "not here"


def _machine_rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "devices" not in found:
        return
    for one in found["devices"]:
        bf16 = "bf16" if one["bf16"] else "no bf16"
        yield one["device"], f"{one['name']}, {one['free_bytes'] / 1e9:.0f} of {one['bytes'] / 1e9:.0f} GB free, {bf16}"
    if not found["devices"]:
        yield "CUDA", "none"
    threads = found["threads"]
    settings = ", ".join(f"{name}={value or 'unset'}" for name, value in threads["environment"].items())
    yield "threads", f"{threads['openmp']} of PyTorch, about {threads['idle_cores']} cores idle; {settings}"


def examine() -> dict[str, Any]:
    """Return everything that was found, as plain data; ``problems`` keep kdiga from working, ``warnings`` do not."""
    found: dict[str, Any] = {"kind": "doctor", "problems": [], "warnings": []}
    found["versions"] = _versions(found["problems"])
    found["extras"] = {name: _extra(name, packages) for name, packages in EXTRAS.items()}
    found["processor"] = _processor()
    found["folder"] = _folder(found["problems"], found["warnings"])
    if all(found["versions"][package]["imports"] for package in ("torch", "torchvision")):
        import torch

        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        found["devices"] = _devices()
        found["threads"] = threads(found["processor"]["cores"], load, torch.get_num_threads())
        found["warnings"] += found["threads"]["warnings"]
        found["data"] = _data(found["warnings"])
    return found


def _versions(problems: list[str]) -> dict[str, Any]:
    from kdiga import __version__

    versions: dict[str, Any] = {"python": platform.python_version(), "kdiga": __version__}
    for package in ESSENTIAL:
        reason = _broken(package)
        versions[package] = {"version": installed_version(package), "imports": reason is None}
        if reason is not None:
            problems.append(f"{package} cannot be imported ({reason}); run pip install --force-reinstall {package}.")
    return versions


def _broken(package: str) -> str | None:
    """Return why a package cannot be imported; a library that does not fit raises nearly anything."""
    from kdiga.errors import reason_of

    try:
        importlib.import_module(package)
    except Exception as error:
        return reason_of(error)
    return None


def _extra(name: str, packages: tuple[str, ...]) -> dict[str, Any]:
    versions = {package: installed_version(package) for package in packages}
    missing = [package for package, found in versions.items() if found is None]
    return {"versions": versions, "get": f"pip install 'kdiga[{name}]'" if missing else None}


def _processor() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    supported = {name: any(flag in flags for flag in wanted) for name, wanted in CORE_FLAGS.items()}
    return {"name": processor_name(), "cores": usable_cores(), **supported}


def usable_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return how many cores this process may use: fewer than there are where a scheduler or container says so."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        most, period = quota.read_text().split()
        return cores if most == "max" else max(1, min(cores, int(most) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        return cores


def threads(cores: int, load: float, own: int) -> dict[str, Any]:
    """Return the thread settings, with a warning where ``own`` threads are more than the ``cores`` that are idle.

    ``load`` is the mean number of processes that ran or waited over the last minute.
    """
    idle = max(0, round(cores - load))
    warnings: list[str] = []
    if own > max(1, idle):
        warnings.append(
            f"PyTorch would use {own} threads and {idle} of {cores} cores are idle; threads that wait for each other "
            f"can make a step tens of times slower. Set OMP_NUM_THREADS={max(1, idle)}."
        )
    settings = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return {"openmp": own, "idle_cores": idle, "load": round(load, 2), "environment": settings, "warnings": warnings}


def _devices() -> list[dict[str, Any]]:
    import torch

    if not torch.cuda.is_available():
        return []
    return [
        {
            "device": f"cuda:{number}",
            "name": torch.cuda.get_device_name(number),
            "free_bytes": torch.cuda.mem_get_info(number)[0],
            "bytes": torch.cuda.mem_get_info(number)[1],
            "bf16": torch.cuda.get_device_capability(number) >= (8, 0),
        }
        for number in range(torch.cuda.device_count())
    ]


def _folder(problems: list[str], warnings: list[str]) -> dict[str, Any]:
    place = Path.cwd()
    free = shutil.disk_usage(place).free
    writable = _writable(place)
    if not writable:
        problems.append(f"the current folder {str(place)!r} cannot be written; change to another, or give --out.")
    if free < LITTLE_DISK:
        warnings.append(f"{free / 1e6:.0f} MB of disk are left here; make room, or give --out on another disk.")
    return {"path": str(place), "free_bytes": free, "writable": writable}


def _writable(place: Path) -> bool:
    # Permission bits say nothing of a read-only or full disk.
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".kdiga-") as file:
            file.write(b"kdiga")
    except OSError:
        return False
    return True


def _data(warnings: list[str]) -> dict[str, str | None]:
    from kdiga.data import available_data, find_data
    from kdiga.errors import InputError

    found: dict[str, str | None] = {}
    for name in available_data():
        try:
            found[name] = find_data(name)
        except InputError as error:
            found[name] = None
            warnings.append(f"{name}: {error}")
    return found
