"""One run of the tests in a forked child, with bounds of time and memory, on a copy of the project."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

PASSED = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "-m", "not slow")


class Quickest:
    """A plugin: runs the wanted tests only, the quickest first."""

    def __init__(self, seconds: dict[str, float], wanted: Collection[str]) -> None:
        self.seconds, self.wanted = seconds, wanted

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self.wanted), key=self._seconds)

    def _seconds(self, item: pytest.Item) -> float:
        return self.seconds[item.nodeid]


class Notes:
    """A plugin: writes how long each test takes, and which of its lines a module's tests run."""

    def __init__(self, path: Path) -> None:
        import coverage

        os.environ["COVERAGE_CORE"] = "ctrace"  # the other one knows of no contexts

        self.path, self.seconds = path, dict[str, float]()
        self.coverage = coverage.Coverage(data_file=None, source=["src/kdiga"], config_file=False)
        self.coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item):
        self.coverage.switch_context(item.nodeid)
        begun = time.monotonic()
        result = yield
        self.seconds[item.nodeid] = time.monotonic() - begun
        self.coverage.switch_context("")
        return result

    def pytest_sessionfinish(self) -> None:
        self.coverage.stop()
        data = self.coverage.get_data()
        lines = {
            str(Path(file).relative_to(Path.cwd())): data.contexts_by_lineno(file) for file in data.measured_files()
        }
        self.path.write_text(json.dumps({"seconds": self.seconds, "lines": lines}))


@dataclass
class Trial:
    """A child that runs; ``done`` tells how it ended."""

    pid: int
    begun: float
    limit: float

    @classmethod
    def start(cls, tree: Path, tests: Collection[str], plugin: Callable[[], object], limit: float, gib: float) -> Trial:
        """Fork a child that leads a process group of its own, with its output thrown away."""
        pid = os.fork()
        if pid == 0:
            code = 3
            try:
                os.setsid()
                resource.setrlimit(resource.RLIMIT_AS, (int(gib * 2**30),) * 2)
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                out = os.open(tree / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(out, 1)
                os.dup2(out, 2)
                os.chdir(tree)
                os.environ |= {"PYTHONPATH": str(tree / "src"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
                for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
                    del sys.modules[name]  # they would lead to the tests beside this file, not to the copy's
                # The bytecode of a fault would pass for that of the next one, written in the same second.
                sys.dont_write_bytecode = True
                sys.path[:0] = [str(tree / "src"), str(tree)]
                code = int(pytest.main([*OPTIONS, *tests], plugins=[plugin()]))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        return cls(pid, time.monotonic(), limit)

    def done(self) -> str | None:
        """Return "killed", "survived" or "timeout"; None while it runs."""
        late = time.monotonic() - self.begun > self.limit
        if late:
            self.stop()
        pid, status = os.waitpid(self.pid, 0 if late else os.WNOHANG)
        if pid == 0:
            return None
        self.stop()
        code = os.waitstatus_to_exitcode(status)
        return "timeout" if late else "survived" if code in PASSED else "killed"

    def stop(self) -> None:
        """End the child and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
