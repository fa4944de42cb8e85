"""Memory: how libraries say that there is too little, and a bound on what torch takes of a GPU's."""

import re

SIGNS = re.compile(
    r"out of memory|outofmemoryerror|memoryerror|(can't|cannot) allocate memory|not enough memory|insufficient memory"
    r"|bad_alloc|alloc_failed|could not (create|execute) a primitive(?! descriptor)",
    re.IGNORECASE,
)
"""What torch, Python, the system, OpenCV, C++, cuBLAS and cuDNN say, and oneDNN, which does not give the reason."""


def tells_of_too_little_memory(text: str) -> bool:
    """Whether what a library says, or a line of its log, is about memory that ran out."""
    return SIGNS.search(text) is not None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, on a GPU or on the CPU."""
    if isinstance(error, MemoryError):
        return True
    # By its module, for there may be no memory to import OpenCV now.
    from_library = isinstance(error, (RuntimeError, OSError)) or type(error).__module__.partition(".")[0] == "cv2"
    return from_library and tells_of_too_little_memory(f"{type(error).__name__}: {error}")


def limit_gpu_memory(device: str, max_bytes: int | None) -> None:
    """Have torch hold this process to a budget on a GPU; on the CPU, or without a budget, nothing is done.

    Args:
        device: as torch names it, a GPU with its number.
        max_bytes: the budget.
    """
    if max_bytes is None or not device.startswith("cuda"):
        return
    import torch

    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, max_bytes / total), device)
