"""Files are replaced at once or not at all, and trouble is told in a line."""

from __future__ import annotations

import errno
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from kdiga.errors import OutOfMemoryError
from kdiga.io.atomic_write import WriteError, disk_error, replacing, write_atomically
from kdiga.out_of_memory import out_of_memory_as_error


def refuse(number):
    def write(*_arguments, **_more):
        raise OSError(number, os.strerror(number))

    return write


def test_what_was_there_stays_if_the_block_fails(tmp_path):
    path = tmp_path / "x"
    path.write_text("as it was")
    with pytest.raises(ZeroDivisionError), replacing(path) as partial:  # noqa: PT012
        partial.write_text("half")
        raise ZeroDivisionError
    assert [one.name for one in tmp_path.iterdir()] == ["x"]
    assert path.read_text() == "as it was"


@pytest.mark.parametrize(
    ("number", "status", "words"),
    [(errno.ENOSPC, 1, "Make room and give the same command again"), (errno.EROFS, 2, "can be written")],
)
def test_the_disk_is_told_of(number, status, words, tmp_path, monkeypatch):
    monkeypatch.setattr("pathlib.Path.write_text", refuse(number))
    with pytest.raises(WriteError, match=words) as told:
        write_atomically(tmp_path / "x", "text")
    assert told.value.exit_status == status
    assert os.strerror(number) in str(told.value)
    assert "\n" not in str(told.value)
    again = pickle.loads(pickle.dumps(told.value))  # as a worker tells it
    assert (str(again), again.exit_status) == (str(told.value), status)
    assert list(tmp_path.iterdir()) == []


class Full:
    """A file on a full disk."""

    def write(self, _content):
        raise OSError(errno.ENOSPC, "No space left on device")

    def flush(self):
        pass


def test_errors_of_libraries_that_come_of_the_disk():
    with pytest.raises(Exception) as raised:  # noqa: PT011
        torch.save({"a": torch.zeros(1000)}, Full())
    assert disk_error(raised.value) == errno.ENOSPC
    assert disk_error(SafetensorError("I/O error: No space left on device (os error 28)")) == errno.ENOSPC
    assert disk_error(ValueError("no disk in this")) is None


def test_an_error_that_hides_its_cause_is_its_own():
    with pytest.raises(ValueError, match="hidden") as raised:  # noqa: PT012
        try:
            raise OSError(errno.ENOSPC, "full")
        except OSError:
            raise ValueError("hidden") from None
    assert disk_error(raised.value) is None


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")  # noqa: PTH110
def test_a_device_that_is_full():
    with pytest.raises(OSError, match="No space left"), open("/dev/full", "wb") as file:  # noqa: PTH123
        np.save(file, np.zeros(10_000))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ..."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 128 bytes."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        MemoryError(),
    ],
)
def test_a_shortage_of_memory_names_what_to_reduce(error):
    with (
        pytest.raises(OutOfMemoryError, match=r"memory ran out.*: fewer of these\.") as told,
        out_of_memory_as_error("fewer of these."),
    ):
        raise error
    assert told.value.__cause__ is error


def test_the_allocators_own_error_is_known():
    with pytest.raises(OutOfMemoryError, match="memory ran out"), out_of_memory_as_error("less."):
        torch.empty(1 << 60, dtype=torch.uint8)


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shape") as raised, out_of_memory_as_error("less."):
        raise RuntimeError("shape mismatch")
    assert not isinstance(raised.value, OutOfMemoryError)
