"""Running models in torch: on which device, loaded while they are needed, in batches that fit into its memory."""

import gc
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import structlog
import torch

from al_dagster.core.errors import UserError
from al_dagster.core.memory import is_out_of_memory
from al_dagster.vision.residency import Residency

ROOM_USED = 0.8
"""Share of the free memory that a micro-batch may be measured to take."""

MORE_ROOM = (
    "close other programs that use it, raise AL_MAX_VRAM_GB, or choose smaller models (`al models list` shows what "
    "each needs)"
)

COMPILED_SHAPES = 32
"""Shapes that one piece of code is compiled for, those of all models together; torch itself would give up after 8."""

DEVICE = re.compile(r"cpu|cuda(:(0|[1-9][0-9]?))?")

logger = structlog.get_logger(__name__)

# Decoded images are read-only, and nothing writes to them.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Runtime:
    """Where and how models in torch run.

    Args:
        device: ``auto`` (a CUDA GPU if there is one, else the CPU), ``cpu``, ``cuda`` or ``cuda:N``.
        compile: whether models are compiled by ``torch.compile``; the first batches then take minutes.
        residency: keeps the models of this runtime within the memory budget.
    """

    device: str = "auto"
    compile: bool = False
    residency: Residency = field(default_factory=Residency)

    def torch_device(self) -> torch.device:
        """The device, a GPU with its number, without which torch does not tell its memory.

        Raises:
            UserError: a GPU is asked for and torch sees none, or the device's name is not one.
        """
        available = torch.cuda.is_available()
        name = ("cuda" if available else "cpu") if self.device == "auto" else self.device
        if not DEVICE.fullmatch(name):
            raise UserError(f"AL_DEVICE: {self.device!r} is no device; use auto, cpu, cuda or cuda:N")
        device = torch.device(name)
        if device.type != "cuda":
            return device
        device = torch.device("cuda", device.index or 0)
        if not available or device.index >= torch.cuda.device_count():
            raise UserError(
                f"AL_DEVICE is {self.device}, but torch sees {torch.cuda.device_count()} GPUs; "
                "install a CUDA build of torch and the driver, or set AL_DEVICE=cpu"
            )
        return device

    def dtype(self) -> torch.dtype:
        """The precision that models run in: bfloat16 on a GPU, float32 elsewhere."""
        return torch.bfloat16 if self.torch_device().type == "cuda" else torch.float32


class TorchModel(ABC):
    """A model whose weights are in memory only while they are needed.

    Args:
        runtime: where it runs.
    """

    model_id: str

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._module: torch.nn.Module | None = None
        self._lock = runtime.residency.lock

    @abstractmethod
    def _build(self) -> torch.nn.Module:
        """The network with its weights, in evaluation mode, on the CPU."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.runtime.torch_device()

    @property
    def dtype(self) -> torch.dtype:
        """The precision it runs in."""
        return self.runtime.dtype()

    @property
    def module(self) -> torch.nn.Module:
        """The network on its device, loaded if it is not; the other models leave where there is no room otherwise.

        Raises:
            UserError: there is no room even then.
        """
        residency = self.runtime.residency
        with self._lock:
            while self._module is None:
                try:
                    self._module = self._loaded()
                except Exception as error:
                    if not is_out_of_memory(error):
                        raise
                    _forget_frames(error)
                    if not residency.release_others(self):
                        raise UserError(
                            f"there is not enough memory to load {self.model_id} on {self.device}; {MORE_ROOM}"
                        ) from None
            residency.used(self)
            return self._module

    def _loaded(self) -> torch.nn.Module:
        residency = self.runtime.residency
        if self.runtime.compile:
            torch._dynamo.config.recompile_limit = COMPILED_SHAPES
        built = self._build().to(self.dtype)
        size = sum(tensor.nbytes for tensor in (*built.parameters(), *built.buffers()))
        residency.hold(self.device)
        residency.make_room(size)
        moved = built.to(self.device)
        residency.entered(self, size)
        logger.info("model loaded", model=self.model_id, device=str(self.device), mb=round(size / 1e6))
        return moved

    def load(self) -> None:
        """Bring the weights into memory; calling it again does nothing."""
        _ = self.module

    def unload(self) -> None:
        """Free the weights; the next call loads them again."""
        with self._lock:
            if self._module is None:
                return
            self._module = None
            self.runtime.residency.gone(self)
        # A compiled module holds itself in a cycle.
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def micro_batches(self, most: int) -> "MicroBatches":
        """Batches of this model's inputs; when one item does not fit, the other models leave the memory.

        Args:
            most: most items in a batch.
        """
        return MicroBatches(self.device, most, make_room=lambda: self.runtime.residency.release_others(self))


class MicroBatches:
    """Calls a model with as many items at a time as fit into the device's memory.

    On a GPU the memory that one item takes is measured, and batches are as large as a power of two of it fits. A batch
    that runs out of memory all the same is halved and its items are tried again; the size stays with the object.

    Args:
        device: where the items are computed.
        most: most items in a batch.
        make_room: frees memory that is not needed; returns whether it freed any.
    """

    def __init__(self, device: torch.device, most: int, *, make_room: Callable[[], bool] = lambda: False) -> None:
        if most < 1:
            raise ValueError(f"a batch needs at least one item, got {most}")
        self._device, self._make_room = device, make_room
        self._most = most
        self.size: int | None = None if device.type == "cuda" else most
        """Items in a batch; None as long as it is not measured."""

    def run(self, items: Sequence[_Item], call: Callable[[Sequence[_Item]], Sequence[_Result]]) -> list[_Result]:
        """The results of all items, in their order.

        Args:
            items: what the model is called with.
            call: computes the results of some of the items, one each; called again if memory ran out.

        Raises:
            UserError: one item alone needs more memory than there is.
            ValueError: ``call`` gave another number of results than it had items.
        """
        results: list[_Result] = []
        while len(results) < len(items):
            size = self.size or 1
            some = items[len(results) : len(results) + size]
            try:
                found = self._measured(some, call) if self.size is None else call(some)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                _forget_frames(error)
                self._shrink(len(some))
                continue
            if len(found) != len(some):
                raise ValueError(f"expected {len(some)} results, got {len(found)}")
            results.extend(found)
        return results

    def _measured(
        self, items: Sequence[_Item], call: Callable[[Sequence[_Item]], Sequence[_Result]]
    ) -> Sequence[_Result]:
        """Call with the first item twice: once to have libraries set up, once to see what it takes."""
        call(items)
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        found = call(items)
        torch.cuda.synchronize(self._device)
        taken = max(1, torch.cuda.max_memory_allocated(self._device) - before)
        fitting = int(self._room() * ROOM_USED / taken)
        self.size = min(self._most, 1 << max(0, fitting.bit_length() - 1))
        logger.info("batch size measured", items=self.size, mb_an_item=round(taken / 1e6))
        return found

    def _room(self) -> float:
        """Bytes of the device's memory that are free for this process."""
        free, total = torch.cuda.mem_get_info(self._device)
        unused = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        allowed = torch.cuda.get_per_process_memory_fraction(self._device) * total
        return min(free + unused, allowed - torch.cuda.memory_allocated(self._device))

    def _shrink(self, tried: int) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if tried > 1:
            self.size = tried // 2
            logger.warning("out of memory, trying smaller batches", items=self.size)
        elif not self._make_room():
            raise UserError(f"one image needs more memory than {self._device} has left; {MORE_ROOM}")


def _forget_frames(error: BaseException | None) -> None:
    """Let go of the frames of an error and of those behind it, which keep the tensors of a failed call alive."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
