from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from al_dagster.core.memory import is_out_of_memory, limit_gpu_memory, tells_of_too_little_memory

SAID = [
    "CUDA out of memory. Tried to allocate 2.00 GiB",
    "CUDA error: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "could not create a primitive",
    "could not execute a primitive",
    "std::bad_alloc",
    "DefaultCPUAllocator: not enough memory: you tried to allocate 64 bytes",
    "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory",
    "mmap: Cannot allocate memory",
]
NOT_SAID = ["could not create a primitive descriptor for a convolution", "CUDA error: device-side assert triggered"]


@pytest.mark.parametrize("text", SAID)
def test_what_libraries_say_of_too_little_memory_is_understood_in_an_error_and_in_a_log(text: str) -> None:
    assert is_out_of_memory(RuntimeError(text))
    assert tells_of_too_little_memory(f"RuntimeError: {text}")


@pytest.mark.parametrize("text", NOT_SAID)
def test_other_faults_are_not_taken_for_too_little_memory(text: str) -> None:
    assert not is_out_of_memory(RuntimeError(text))
    assert not tells_of_too_little_memory(f"RuntimeError: {text}")


def too_large_an_array() -> None:
    np.empty(2**62, np.uint8)


def too_large_an_image() -> None:
    # One row, repeated without end in the same place.
    rows = np.lib.stride_tricks.as_strided(np.zeros(2**20, np.uint8), (2**30, 2**20), (0, 1))
    cv2.copyMakeBorder(rows, 1, 1, 1, 1, cv2.BORDER_CONSTANT)


def too_large_a_tensor() -> None:
    torch.empty(2**62, dtype=torch.uint8)


@pytest.mark.parametrize("take", [too_large_an_array, too_large_a_tensor])
def test_an_array_that_no_memory_holds_is_understood(take) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011
        take()
    assert is_out_of_memory(raised.value)
    assert tells_of_too_little_memory(raised.exconly())


def test_an_error_of_opencv_s_is_understood() -> None:
    assert is_out_of_memory(cv2.error("(-4:Insufficient memory) Failed to allocate 9 bytes in function 'OutOfMemory'"))


def test_the_kind_of_error_counts_where_it_says_nothing() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError())
    assert is_out_of_memory(OSError(12, "Cannot allocate memory"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize(
    ("device", "max_bytes", "limit"),
    [
        ("cuda:1", 20, (0.25, "cuda:1")),
        ("cuda:1", 800, (1.0, "cuda:1")),
        ("cuda:1", None, None),
        ("cpu", 20, None),
    ],
)
def test_torch_is_held_to_the_budget_on_the_gpu_that_is_named(monkeypatch, device, max_bytes, limit) -> None:
    limits = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda asked: SimpleNamespace(total_memory=80))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: limits.append(given))
    limit_gpu_memory(device, max_bytes)
    assert limits == ([] if limit is None else [limit])
