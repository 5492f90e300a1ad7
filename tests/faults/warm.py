"""Commands in processes of their own that start at once: each is forked from one that has loaded PyTorch already.

A process asks this module's ``Warm``; the module itself, run as a program, is the process that forks.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Fault = dict[str, Any]
"""``die``: [number, "before" or "after"], killed at so many-th replacement of a file; ``clock``: seconds it goes wrong
by; ``memory``: images of which a convolution takes no more at once."""


@dataclass
class Process:
    """A command that runs.

    Args:
        warm: who started it.
        pid: of it and of its process group.
        log: what it says, of both streams.
    """

    warm: Warm
    pid: int
    log: Path
    status: int | None = None

    def running(self) -> bool:
        """Return whether it has not ended yet."""
        if self.status is None:
            self.status = self.warm.ask("poll", pid=self.pid)
        return self.status is None

    def wait(self) -> int:
        """Return its exit status when it has ended; a signal's number is negative."""
        while self.running():
            time.sleep(0.01)
        assert self.status is not None
        return self.status

    def send(self, number: int) -> None:
        """Send a signal to it and to the workers it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    @property
    def said(self) -> str:
        """What it has said so far."""
        return self.log.read_text(errors="replace")


class Warm:
    """Starts commands."""

    def __init__(self) -> None:
        environment = os.environ | {"KDIGA_DATA": "", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "COLUMNS": "160"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.warm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._count = 0

    def __enter__(self) -> Warm:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def ask(self, what: str, **more: Any) -> Any:
        """Have the forking process do something, and return its answer."""
        self._process.stdin.write(json.dumps({"what": what, **more}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, arguments: list[str], cwd: Path, log: Path | None = None, **fault: Any) -> Process:
        """Start ``kdiga`` with arguments in a folder; see :data:`Fault` for what may happen to it."""
        self._count += 1
        log = log or cwd / f"log-{self._count}.txt"
        pid = self.ask("start", arguments=arguments, cwd=str(cwd), log=str(log), fault=fault)
        return Process(self, pid, log)

    def run(self, arguments: list[str], cwd: Path, log: Path | None = None, **fault: Any) -> Process:
        """Start and wait."""
        process = self.start(arguments, cwd, log, **fault)
        process.wait()
        return process


@dataclass
class _Forks:
    ended: dict[int, int] = field(default_factory=dict)

    def answer(self, what: str, **asked: Any) -> Any:
        return self.start(**asked) if what == "start" else self.poll(**asked)

    def start(self, arguments: list[str], cwd: str, log: str, fault: Fault) -> int:
        pid = os.fork()
        if pid == 0:
            _become(arguments, cwd, log, fault)
        with contextlib.suppress(OSError):  # as in the child: whoever is first
            os.setpgid(pid, pid)
        return pid

    def poll(self, pid: int) -> int | None:
        if pid not in self.ended:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found == 0:
                return None
            self.ended[pid] = os.waitstatus_to_exitcode(status)
        return self.ended[pid]


def _become(arguments: list[str], cwd: str, log: str, fault: Fault) -> None:
    os.setpgid(0, 0)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, output), (2, output)):
        os.dup2(source, target)
    os.chdir(cwd)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job is born ignoring it
    sys.argv = ["kdiga", *arguments]
    _suffer(fault)
    status = 70
    try:
        from kdiga.cli import main

        main()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _suffer(fault: Fault) -> None:
    if "die" in fault:
        number, when = fault["die"]
        real, count = os.replace, [0]

        def replace(*arguments: Any, **more: Any) -> None:
            count[0] += 1
            if count[0] == number and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            real(*arguments, **more)
            if count[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = replace
    if "clock" in fault:
        real_time = time.time
        time.time = lambda: real_time() + fault["clock"]
    if "memory" in fault:
        # Not a limit of the system's: libraries that PyTorch calls end at one without a word.
        import torch

        real_convolution = torch.nn.Conv2d.forward

        def forward(self: torch.nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
            if len(images) > fault["memory"]:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 1 B")
            return real_convolution(self, images)

        torch.nn.Conv2d.forward = forward


def _main() -> None:
    # What commands load when they first need it is loaded here, before they are forked.
    import scipy.stats  # noqa: F401
    import timm.utils.model_ema  # noqa: F401
    import torch
    import torch._dynamo

    import kdiga.cli.app
    import kdiga.experiments.study
    import kdiga.workflows.cache
    import kdiga.workflows.certify
    import kdiga.workflows.evaluate

    kdiga.load_data("digits")

    torch.set_num_threads(1)
    forks = _Forks()
    for line in sys.stdin:
        print(json.dumps(forks.answer(**json.loads(line))), flush=True)


if __name__ == "__main__":
    _main()
