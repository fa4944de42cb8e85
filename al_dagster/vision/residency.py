"""Which models are in the device's memory, within a budget."""

import threading
from collections import OrderedDict
from typing import Protocol

import torch

from al_dagster.core.memory import limit_gpu_memory

GIB = 1024**3

WEIGHTS_SHARE = 0.5
"""Share of the memory budget that weights may take; the rest is for what the models compute."""


class Resident(Protocol):
    """What can be in the device's memory."""

    def unload(self) -> None:
        """Leave the memory, once what it computes just now is done."""


class Residency:
    """Which models are in the device's memory: within a budget, the least recently used leaves first.

    Args:
        max_vram_gb: GiB of device memory that this process may use; None for all there is.
    """

    def __init__(self, max_vram_gb: float | None = None) -> None:
        self.max_bytes = None if max_vram_gb is None else int(max_vram_gb * GIB)
        self._resident: OrderedDict[Resident, int] = OrderedDict()
        self.lock = threading.RLock()
        """Held while a model comes or goes. It is one for all of them, since one that comes may make another go."""

    def hold(self, device: torch.device) -> None:
        """Have torch hold this process to the budget on a GPU."""
        limit_gpu_memory(str(device), self.max_bytes)

    def make_room(self, size: int) -> None:
        """Unload models until weights of ``size`` bytes are within the budget, or none is left."""
        with self.lock:
            while self._resident and self.max_bytes is not None:
                if sum(self._resident.values()) + size <= self.max_bytes * WEIGHTS_SHARE:
                    return
                self._resident.popitem(last=False)[0].unload()

    def entered(self, model: Resident, size: int) -> None:
        """Note that a model is in the memory, with weights of ``size`` bytes, or as many as are to count for it."""
        with self.lock:
            self._resident[model] = size

    def used(self, model: Resident) -> None:
        """Note that a model was used just now."""
        with self.lock:
            if model in self._resident:
                self._resident.move_to_end(model)

    def gone(self, model: Resident) -> None:
        """Note that a model has left the memory."""
        with self.lock:
            self._resident.pop(model, None)

    def release_others(self, model: Resident) -> bool:
        """Unload every model but this one; returns whether there was one."""
        with self.lock:
            others = [other for other in self._resident if other is not model]
            for other in others:
                del self._resident[other]
                other.unload()
            return bool(others)
