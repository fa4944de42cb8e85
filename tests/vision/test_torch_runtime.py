import gc
import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from al_dagster.core.errors import UserError
from al_dagster.vision.residency import GIB, Residency
from al_dagster.vision.torch_runtime import MicroBatches, Runtime, TorchModel

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
LAYER_BYTES = 4 * (16 * 16 + 16)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


class Layer(TorchModel):
    """One linear layer of 1088 bytes."""

    model_id = "layer"

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.builds = 0

    def _build(self) -> nn.Module:
        self.builds += 1
        return nn.Linear(16, 16).eval()

    @property
    def loaded(self) -> bool:
        return self._module is not None


class Crowded(nn.Linear):
    """A layer that the device has no room for."""

    def to(self, *args: object, **kwargs: object) -> nn.Module:
        if any(isinstance(value, torch.device) for value in args):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().to(*args, **kwargs)


class CrowdedLayer(Layer):
    """One that there is no room for when it is loaded first."""

    def _build(self) -> nn.Module:
        built = super()._build()
        return Crowded(16, 16).eval() if self.builds == 1 else built


def budget(layers: float) -> Residency:
    """A budget whose share for weights has room for so many layers."""
    return Residency(2 * layers * LAYER_BYTES / GIB)


def doubled(items: Sequence[int]) -> list[int]:
    return [2 * item for item in items]


@given(
    count=st.integers(0, 60),
    most=st.integers(1, 40),
    fitting=st.sets(st.integers(2, 40)).map(lambda sizes: sizes | {1}),
)
def test_no_item_is_lost_and_their_order_stays_whatever_batches_fit(count: int, most: int, fitting: set[int]) -> None:
    tried = []

    def call(items: Sequence[int]) -> list[int]:
        tried.append(len(items))
        if len(items) not in fitting:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return doubled(items)

    batches = MicroBatches(CPU, most)
    assert batches.run(range(count), call) == [2 * item for item in range(count)]
    assert max(tried, default=0) <= most
    assert sum(size for size in tried if size in fitting) == count
    before = len(tried)
    assert batches.run([7], call) == [14]
    assert tried[before:] == [1]


def test_a_batch_that_ran_out_of_memory_is_halved_and_the_size_remembered() -> None:
    tried = []

    def call(items: Sequence[int]) -> list[int]:
        tried.append(len(items))
        if len(items) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return doubled(items)

    batches = MicroBatches(CPU, 16)
    assert batches.run(range(5), call) == [0, 2, 4, 6, 8]
    assert tried == [5, 2, 2, 1]
    tried.clear()
    assert batches.run(range(8), call) == [2 * item for item in range(8)]
    assert tried == [2, 2, 2, 2]
    assert batches.size == 2


def test_what_the_failed_call_computed_is_freed_before_room_is_made() -> None:
    failed: list[weakref.ref[torch.Tensor]] = []

    def call(items: Sequence[int]) -> list[int]:
        activations = torch.zeros(len(items), 1000)
        if not failed:
            failed.append(weakref.ref(activations))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return doubled(items)

    def make_room() -> bool:
        return failed[0]() is None

    gc.disable()
    try:
        assert MicroBatches(CPU, 1, make_room=make_room).run([3], call) == [6]
    finally:
        gc.enable()


def test_when_one_item_does_not_fit_room_is_made_before_giving_up() -> None:
    others = ["detector", "segmenter"]

    def make_room() -> bool:
        return bool(others and others.pop())

    def call(items: Sequence[int]) -> list[int]:
        if others:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return doubled(items)

    assert MicroBatches(CPU, 1, make_room=make_room).run([1, 2], call) == [2, 4]

    def never(items: Sequence[int]) -> list[int]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(UserError, match=r"^one image needs more memory than cpu has left; close .*AL_MAX_VRAM_GB"):
        MicroBatches(CPU, 4, make_room=make_room).run([1, 2, 3], never)


@pytest.mark.parametrize("error", [RuntimeError("shapes cannot be multiplied"), UserError("no"), KeyError("x")])
def test_another_error_passes_through(error: Exception) -> None:
    calls = 0

    def call(items: Sequence[int]) -> list[int]:
        nonlocal calls
        calls += 1
        raise error

    with pytest.raises(type(error)) as raised:
        MicroBatches(CPU, 4).run(range(8), call)
    assert raised.value is error
    assert calls == 1


@pytest.mark.parametrize("given_back", [0, 2, 4])
def test_another_number_of_results_than_items_is_refused(given_back: int) -> None:
    with pytest.raises(ValueError, match=f"expected 3 results, got {given_back}"):
        MicroBatches(CPU, 4).run([1, 2, 3], lambda items: [0] * given_back)


def test_a_batch_of_no_items_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one item, got 0"):
        MicroBatches(CPU, 0)


LIMITED = """
import json, resource
from pathlib import Path
import torch
from torch import nn
from al_dagster.core.errors import UserError
from al_dagster.core.memory import is_out_of_memory
from al_dagster.vision.torch_runtime import MicroBatches

torch.set_num_threads(1)
torch.manual_seed(0)

def leave(mb):
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + mb * 2**20, resource.RLIM_INFINITY))

def run(net, batches, calls=None):
    def call(some):
        if calls is not None:
            calls.append(len(some))
        return net(torch.stack(some)).flatten(1).unbind()
    return torch.stack(batches.run(list(items), call))

# Each item's activations take 40 MiB twice: blocks of that size go back to the system when they are freed.
large = nn.Sequential(nn.Upsample(scale_factor=800), nn.ReLU(), nn.AvgPool2d(800))
# 36 MiB come out of its convolution.
convolution = nn.Sequential(nn.Upsample(scale_factor=96), nn.Conv2d(1, 64, 3, padding=1), nn.AdaptiveAvgPool2d(1))
items = torch.randn(8, 1, 4, 4).unbind()
told = {}
with torch.inference_mode():
    for name, net in (("large", large), ("convolution", convolution)):
        unlimited = run(net, MicroBatches(torch.device("cpu"), 8))
        leave(200)
        batches, calls = MicroBatches(torch.device("cpu"), 8), []
        limited = run(net, batches, calls)
        told[name] = [calls[0], batches.size, (limited - unlimited).abs().max().item(), unlimited.std().item()]
        leave(24)
        try:
            run(net, MicroBatches(torch.device("cpu"), 8))
        except UserError as error:
            told[name].append(str(error))
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    leave(32)
    try:
        torch.zeros(1).expand(3_000_000).unbind()
    except Exception as error:
        told["small blocks"] = is_out_of_memory(error)
print(json.dumps(told))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space of a process as Linux does")
def test_a_process_with_too_little_memory_for_a_batch_gives_all_results_all_the_same() -> None:
    finished = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    told = json.loads(finished.stdout.splitlines()[-1])
    for name in ("large", "convolution"):
        first, size, difference, spread, *sentence = told[name]
        assert (first, difference) == (8, pytest.approx(0, abs=1e-6))
        assert 1 <= size < 8
        assert spread > 0.01
        assert len(sentence) == 1
        assert sentence[0].startswith("one image needs more memory than cpu has left")
    assert told["small blocks"] is True


def test_a_model_is_loaded_when_it_is_first_used_and_again_after_it_was_unloaded() -> None:
    layer = Layer(Runtime("cpu"))
    layer.unload()
    assert (layer.builds, layer.loaded) == (0, False)
    layer.load()
    layer.load()
    module = layer.module
    assert layer.module is module
    assert (layer.builds, layer.loaded) == (1, True)
    layer.unload()
    layer.unload()
    assert not layer.loaded
    assert layer.module is not module
    assert layer.builds == 2


def test_the_weights_are_freed_when_a_model_is_unloaded() -> None:
    layer = Layer(Runtime("cpu"))
    module = weakref.ref(layer.module)
    layer.unload()
    gc.collect()
    assert module() is None


def test_within_the_budget_the_least_recently_used_leaves_first() -> None:
    residency = budget(2)
    first, second, third = (Layer(Runtime("cpu", residency=residency)) for _ in range(3))
    for layer in (first, second):
        layer.load()
    assert first.loaded
    assert second.loaded
    _ = first.module
    third.load()
    assert (first.loaded, second.loaded, third.loaded) == (True, False, True)
    second.load()
    assert (first.loaded, second.loaded, third.loaded) == (False, True, True)
    third.unload()
    first.load()
    assert (first.loaded, second.loaded) == (True, True)


def test_a_model_larger_than_the_budget_is_loaded_alone() -> None:
    residency = budget(0.5)
    first, second = (Layer(Runtime("cpu", residency=residency)) for _ in range(2))
    first.load()
    assert first.loaded
    second.load()
    assert (first.loaded, second.loaded) == (False, True)


def test_without_a_budget_every_model_stays() -> None:
    runtime = Runtime("cpu")
    layers = [Layer(runtime) for _ in range(4)]
    for layer in layers:
        layer.load()
    assert all(layer.loaded for layer in layers)


class Guest:
    """Something other than a network that takes memory; it does not say itself when it leaves."""

    def __init__(self) -> None:
        self.unloads = 0

    def unload(self) -> None:
        self.unloads += 1


def test_whatever_can_be_unloaded_leaves_once_when_there_is_no_room() -> None:
    residency = budget(2)
    guest, layer = Guest(), Layer(Runtime("cpu", residency=residency))
    layer.load()
    assert residency.max_bytes is not None
    residency.make_room(residency.max_bytes)
    assert not layer.loaded
    residency.entered(guest, residency.max_bytes)
    layer.load()
    assert (layer.loaded, guest.unloads) == (True, 1)
    assert not residency.release_others(layer)
    residency.entered(guest, residency.max_bytes)
    assert residency.release_others(layer)
    assert not residency.release_others(layer)
    assert (layer.loaded, guest.unloads) == (True, 2)


def test_releasing_the_others_leaves_the_one_that_asked() -> None:
    runtime = Runtime("cpu")
    first, second, third = (Layer(runtime) for _ in range(3))
    assert not runtime.residency.release_others(first)
    for layer in (first, second, third):
        layer.load()
    assert runtime.residency.release_others(second)
    assert (first.loaded, second.loaded, third.loaded) == (False, True, False)
    assert not runtime.residency.release_others(second)


def test_an_item_that_does_not_fit_is_tried_again_without_the_other_models() -> None:
    runtime = Runtime("cpu")
    layer, other = Layer(runtime), Layer(runtime)
    other.load()

    def call(items: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        if other.loaded:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return layer.module(torch.stack(list(items))).unbind()

    with torch.inference_mode():
        found = layer.micro_batches(4).run(torch.ones(3, 16).unbind(), call)
    assert len(found) == 3
    assert (layer.loaded, other.loaded) == (True, False)


def test_where_a_model_has_no_room_the_others_leave() -> None:
    runtime = Runtime("cpu")
    other, crowded = Layer(runtime), CrowdedLayer(runtime)
    other.load()
    crowded.load()
    assert (other.loaded, crowded.loaded) == (False, True)


def test_a_model_that_could_not_be_loaded_is_not_counted() -> None:
    residency = budget(1)
    crowded, layer = (made(Runtime("cpu", residency=residency)) for made in (CrowdedLayer, Layer))
    with pytest.raises(UserError, match="not enough memory to load layer on cpu; close other programs"):
        crowded.load()
    assert not residency.release_others(layer)
    layer.load()
    assert layer.loaded


def test_a_batch_is_not_halved_because_its_model_cannot_be_loaded() -> None:
    layer = CrowdedLayer(Runtime("cpu"))
    with pytest.raises(UserError, match="not enough memory to load layer"):
        layer.micro_batches(32).run(range(32), lambda items: [layer.module] * len(items))
    assert layer.builds == 1


def test_an_unloaded_model_leaves_the_memory_at_once_compiled_or_not() -> None:
    class CompiledLayer(Layer):
        def _build(self) -> nn.Module:
            built = super()._build()
            built.compile()
            return built

    for kind in (Layer, CompiledLayer):
        layer = kind(Runtime("cpu"))
        layer.load()
        held = weakref.ref(next(layer.module.parameters()))
        gc.disable()
        try:
            layer.unload()
            assert held() is None
        finally:
            gc.enable()


class Meeting(Residency):
    """Has a model be noted as used while another makes room, where the two can be at it at the same time."""

    def __init__(self, max_vram_gb: float) -> None:
        super().__init__(max_vram_gb)
        self.using, self.making_room = threading.Event(), threading.Event()

    def used(self, model: TorchModel) -> None:
        self.using.set()
        self.making_room.wait(0.3)
        super().used(model)

    def make_room(self, size: int) -> None:
        with self.lock:
            self.making_room.set()
            super().make_room(size)


def test_a_model_can_be_used_inone_thread_while_one_in_another_pushes_it_out() -> None:
    residency = Meeting(2 * LAYER_BYTES / GIB)
    first, second = (Layer(Runtime("cpu", residency=residency)) for _ in range(2))
    first.load()
    residency.using.clear()
    residency.making_room.clear()
    threads = [threading.Thread(target=layer.load, daemon=True) for layer in (first, second)]
    threads[0].start()
    assert residency.using.wait(5)
    threads[1].start()
    for thread in threads:
        thread.join(5)
    assert not any(thread.is_alive() for thread in threads)
    assert (first.loaded, second.loaded) == (False, True)


def test_the_cpu_computes_in_float32_and_holds_the_weights_so() -> None:
    runtime = Runtime("cpu")
    assert (runtime.torch_device(), runtime.dtype()) == (CPU, torch.float32)
    layer = Layer(runtime)
    assert {tensor.dtype for tensor in layer.module.parameters()} == {torch.float32}
    assert (layer.device, layer.dtype) == (CPU, torch.float32)


def test_auto_is_the_gpu_where_there_is_one_and_else_the_cpu() -> None:
    assert Runtime().torch_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(("name", "number"), [("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_a_gpu_has_its_number_without_which_torch_does_not_tell_its_memory(monkeypatch, name, number) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Runtime(name).torch_device() == torch.device("cuda", number)


@pytest.mark.parametrize("name", ["gpu", "", "CPU", "meta", "mps", "cpu:1", "cuda:", "cuda:x", "cuda:-1", "cuda:01"])
def test_a_name_that_is_no_device_is_one_sentence(name: str) -> None:
    with pytest.raises(UserError) as raised:
        Runtime(name).torch_device()
    assert str(raised.value) == f"AL_DEVICE: {name!r} is no device; use auto, cpu, cuda or cuda:N"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7"])
def test_a_gpu_where_there_is_none_is_one_sentence(name: str) -> None:
    sentence = f"^AL_DEVICE is {name}, but torch sees 0 GPUs; install .* or set AL_DEVICE=cpu$"
    for ask in (Runtime(name).torch_device, Runtime(name).dtype, Layer(Runtime(name)).load):
        with pytest.raises(UserError, match=sentence):
            ask()


@needs_gpu
def test_a_gpu_beyond_the_last_is_one_sentence() -> None:
    with pytest.raises(UserError, match="AL_DEVICE is cuda:99, but torch sees"):
        Runtime("cuda:99").torch_device()


@needs_gpu
def test_a_gpu_computes_in_bfloat16() -> None:
    runtime = Runtime("cuda")
    assert runtime.dtype() == torch.bfloat16
    parameter = next(Layer(runtime).module.parameters())
    assert (parameter.device.type, parameter.dtype) == ("cuda", torch.bfloat16)


@needs_gpu
def test_the_batch_size_on_a_gpu_is_measured_within_the_memory_budget() -> None:
    mib = 2**20
    layer = Layer(Runtime("cuda", residency=Residency(max_vram_gb=1.0)))
    device = layer.device
    try:
        layer.load()

        def call(items: Sequence[int]) -> list[int]:
            activations = torch.ones(len(items), 32 * mib // 4, device=device)
            return [item + int(row[0]) for item, row in zip(items, activations, strict=True)]

        batches = MicroBatches(device, 512)
        assert batches.size is None
        assert batches.run(range(40), call) == list(range(1, 41))
        assert batches.size is not None
        assert 4 <= batches.size <= 24
        assert batches.size & (batches.size - 1) == 0
        few = MicroBatches(device, 2)
        few.run(range(3), call)
        assert few.size == 2
        huge = 2 * GIB
        with pytest.raises(UserError, match="one image needs more memory than cuda"):
            MicroBatches(device, 4).run([1], lambda items: torch.ones(huge, dtype=torch.uint8, device=device).tolist())
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        torch.cuda.empty_cache()
