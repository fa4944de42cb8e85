import hashlib
import importlib.metadata
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
import supervision as sv
import torch
from numpy.typing import NDArray

from al_dagster.core.errors import UserError
from al_dagster.core.geometry import iou_matrix
from al_dagster.core.project import PROPOSAL
from al_dagster.vision.protocols import Prompt
from al_dagster.vision.residency import GIB, Residency
from al_dagster.vision.torch_runtime import Runtime, TorchModel
from al_dagster.vision.yolo import YoloDetector
from al_dagster.yolo.predict import Predictions, predict
from al_dagster.yolo.process import worker_environment

pytestmark = pytest.mark.slow

BUILDER = Path(__file__).parents[2] / "benchmarks" / "checkpoints_yolo.py"
CLASSES = ("Red Box", "green disc", "blue bar")
ALL = [Prompt("red box"), Prompt("green disc"), Prompt("blue bar")]
SIZES = [(64, 96), (64, 96), (90, 60), (64, 96)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    environment = worker_environment(folder)
    subprocess.run([sys.executable, str(BUILDER), str(folder / "tiny.pt"), "96", *CLASSES], env=environment, check=True)
    return folder / "tiny.pt"


@pytest.fixture(scope="module")
def detector(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[YoloDetector]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        made = YoloDetector(
            weights, Runtime("cpu"), tmp_path_factory.mktemp("scratch"), model_id="yolo-tiny", allow_pickle=True
        )
        yield made
        made.unload()


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.uint8]]:
    """RGB, coloured noise whose channels differ, of two sizes."""
    rng = np.random.default_rng(0)
    return [rng.integers((0, 40, 120), (120, 200, 256), (*size, 3)).astype(np.uint8) for size in SIZES]


@pytest.fixture(scope="module")
def plain(weights: Path, images: list[NDArray[np.uint8]], tmp_path_factory: pytest.TempPathFactory) -> Predictions:
    """What the library finds in the same images as files."""
    folder = tmp_path_factory.mktemp("images")
    files = [folder / f"{index}.png" for index in range(len(images))]
    for file, image in zip(files, images, strict=True):
        cv2.imwrite(str(file), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return predict(weights, files, folder, imgsz=96, device="cpu", threads=1)


def same(one: sv.Detections, other: sv.Detections) -> bool:
    """Whether each box that is not at the very limit of confidence stands in the other result, too."""
    assert one.confidence is not None
    assert other.confidence is not None
    assert len(one) > 5
    for first, second in ((one, other), (other, one)):
        for box, confidence, class_id in zip(first.xyxy, first.confidence, first.class_id, strict=True):
            near = (np.abs(second.xyxy - box).max(axis=1) < 0.05) & (np.abs(second.confidence - confidence) < 1e-3)
            if confidence > 0.051 and not (near & (second.class_id == class_id)).any():
                return False
    return True


def test_detections_are_those_of_the_plain_library_on_files(
    detector: YoloDetector, images: list[NDArray[np.uint8]], plain: Predictions
) -> None:
    found = detector.detect(images, ALL)
    assert plain.sizes == [(width, height) for height, width in SIZES]
    for boxes, expected, (height, width) in zip(found, plain.boxes, SIZES, strict=True):
        assert same(boxes, expected[expected.confidence >= 0.05])
        assert (boxes.xyxy >= 0).all()
        assert (boxes.xyxy <= [width, height, width, height]).all()
        assert (np.diff(boxes.confidence) <= 0).all()


def test_red_and_blue_are_told_apart(detector: YoloDetector, images: list[NDArray[np.uint8]]) -> None:
    as_it_is, swapped = detector.detect([images[0], images[0][..., ::-1]], ALL)
    assert not same(as_it_is, swapped)


def test_a_batch_of_mixed_sizes_gives_what_single_images_give(
    detector: YoloDetector, images: list[NDArray[np.uint8]]
) -> None:
    singles = [detector.detect([image], ALL)[0] for image in images]
    assert all(same(one, other) for one, other in zip(detector.detect(images, ALL), singles, strict=True))
    assert detector.detect([], ALL) == []


def test_a_synonym_that_the_model_knows_stands_for_the_class(
    detector: YoloDetector, images: list[NDArray[np.uint8]]
) -> None:
    prompts = [Prompt("blue bar"), Prompt("thing", synonyms=("gadget", "Green  Disc", "blue bar", "RED BOX"))]
    (found,), (apart,) = detector.detect(images[:1], prompts), detector.detect(images[:1], ALL)
    assert (found.class_id == 0).sum() == (apart.class_id == 2).sum() > 0
    assert (found.class_id == 1).sum() == (apart.class_id != 2).sum() > 0


def test_a_surer_box_of_a_negative_class_in_the_same_place_drops_a_box(
    detector: YoloDetector, images: list[NDArray[np.uint8]]
) -> None:
    prompts = [Prompt("green disc", negatives=("red box", "nothing it knows"))]
    (found,), (apart,) = detector.detect(images[:1], prompts), detector.detect(images[:1], ALL)
    discs, boxes = apart[apart.class_id == 1], apart[apart.class_id == 0]
    overlaps = iou_matrix(discs.xyxy, boxes.xyxy)
    better = (overlaps >= 0.5) & (boxes.confidence[None, :] > discs.confidence[:, None])
    kept = ~better.any(axis=1)
    assert 0 < kept.sum() < len(discs)
    assert np.array_equal(found.xyxy, discs.xyxy[kept])
    assert set(found.class_id) == {0}


@pytest.mark.parametrize(
    ("prompts", "sentence"),
    [
        ([Prompt("red box"), Prompt("cat", synonyms=("kitten",))], "yolo-tiny does not know 'cat'; it knows Red Box, "),
        ([Prompt(PROPOSAL, synonyms=("red box",))], "yolo-tiny makes no proposals, .* it knows Red Box, green disc, "),
        ([Prompt("red box"), Prompt("cat"), Prompt(PROPOSAL)], "does not know 'cat', 'object'; it knows"),
        ([], "does not know an empty list of classes; it knows"),
    ],
)
def test_what_the_model_cannot_find_is_one_sentence(
    detector: YoloDetector, prompts: list[Prompt], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        detector.check_prompts(prompts)
    with pytest.raises(UserError, match=sentence):
        detector.detect([], prompts)


def test_images_that_need_too_much_memory_at_once_go_in_smaller_batches(
    detector: YoloDetector, images: list[NDArray[np.uint8]]
) -> None:
    (expected,) = detector.detect(images[:1], ALL)
    process = detector.resident.process_id
    with little_memory_left(detector, 4 * 2**20):
        with pytest.raises(MemoryError):
            detector.resident.find(images[:1] * 16, confidence=0.05, nms_iou=0.7, most=300, classes=[0])
        found = detector.detect(images[:1] * 16, ALL)
    assert detector.resident.process_id == process
    assert len(found) == 16
    assert all(same(boxes, expected) for boxes in found)


def test_an_image_that_needs_too_much_memory_alone_is_one_sentence(
    detector: YoloDetector, images: list[NDArray[np.uint8]]
) -> None:
    (expected,) = detector.detect(images[:1], ALL)
    image = np.zeros((4000, 3000, 3), np.uint8)
    with (
        little_memory_left(detector, image.nbytes * 3 // 2),
        pytest.raises(UserError, match="an image of 3000×4000 pixels needs more memory than the detector yolo"),
    ):
        detector.detect([image], ALL)
    assert same(detector.detect(images[:1], ALL)[0], expected)


class Layer(TorchModel):
    """One linear layer, which says when it is being loaded."""

    model_id = "layer"

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.building = threading.Event()

    def _build(self) -> torch.nn.Module:
        self.building.set()
        return torch.nn.Linear(16, 16).eval()

    @property
    def loaded(self) -> bool:
        return self._module is not None


@pytest.fixture
def crowded(weights: Path, tmp_path: Path) -> Iterator[tuple[YoloDetector, Layer]]:
    """A detector and a small model that share a budget of 1 GiB."""
    runtime = Runtime("cpu", residency=Residency(1.0))
    detector = YoloDetector(weights, runtime, tmp_path / "scratch", model_id="m", allow_pickle=True)
    yield detector, Layer(runtime)
    detector.unload()


def test_images_that_there_is_no_memory_to_receive_go_in_smaller_batches(crowded: tuple[YoloDetector, Layer]) -> None:
    detector, _ = crowded
    large = np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), dtype=np.uint8)
    (expected,) = detector.detect([large], ALL)
    process = detector.resident.process_id
    with little_memory_left(detector, 60 * 2**20):
        found = detector.detect([large] * 12, ALL)
    assert detector.resident.process_id == process
    assert len(found) == 12
    assert all(same(boxes, expected) for boxes in found)


def test_with_a_budget_the_process_and_other_models_are_never_there_together(
    crowded: tuple[YoloDetector, Layer], images: list[NDArray[np.uint8]]
) -> None:
    detector, layer = crowded
    layer.load()
    before = detector.detect(images[:1], ALL)[0]
    assert detector.resident.process_id is not None
    assert not layer.loaded
    (job,) = detector.resident.scratch_dir.glob("*/detect.json")
    assert json.loads(job.read_text()).items() >= {"max_bytes": GIB, "device": "cpu"}.items()
    layer.load()
    assert detector.resident.process_id is None
    assert layer.loaded
    assert same(detector.detect(images[:1], ALL)[0], before)
    assert not layer.loaded


def test_a_model_that_needs_the_room_waits_for_the_call_under_way(
    crowded: tuple[YoloDetector, Layer], images: list[NDArray[np.uint8]]
) -> None:
    detector, layer = crowded
    process = stopped(detector)
    found: list[sv.Detections] = []
    calling = threading.Thread(target=lambda: found.extend(detector.detect(images[:1], ALL)), daemon=True)
    loading = threading.Thread(target=layer.load, daemon=True)
    calling.start()
    time.sleep(0.3)
    loading.start()
    assert layer.building.wait(5)
    loading.join(0.3)
    assert (loading.is_alive(), layer.loaded, found) == (True, False, [])
    os.kill(process, signal.SIGCONT)
    for thread in (calling, loading):
        thread.join(20)
        assert not thread.is_alive()
    assert len(found) == 1
    assert (layer.loaded, detector.resident.process_id) == (True, None)


def test_unloading_frees_a_model_that_waits_for_a_call_that_is_never_answered(
    crowded: tuple[YoloDetector, Layer], images: list[NDArray[np.uint8]]
) -> None:
    detector, layer = crowded
    process = stopped(detector)
    failed: list[Exception] = []

    def call() -> None:
        try:
            detector.detect(images[:1], ALL)
        except UserError as error:
            failed.append(error)

    threads = [threading.Thread(target=target, daemon=True) for target in (call, layer.load, detector.unload)]
    for thread in threads:
        thread.start()
        time.sleep(0.3)
    try:
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
    finally:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    assert len(failed) == 1
    assert (layer.loaded, detector.resident.process_id) == (True, None)


class Yielding:
    """A lock that others who wait for it have time to take when it is released."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *raised: object) -> None:
        self._lock.release()
        time.sleep(0.1)


def test_no_model_comes_between_the_start_of_the_process_and_the_call(
    crowded: tuple[YoloDetector, Layer], images: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    detector, layer = crowded
    lock = Yielding()
    monkeypatch.setattr(detector.runtime.residency, "lock", lock)
    monkeypatch.setattr(layer, "_lock", lock)
    detector.load()
    with ThreadPoolExecutor(2) as threads:
        with lock:
            calling = threads.submit(detector.detect, images[:1], ALL)
            time.sleep(0.2)
            loading = threads.submit(layer.load)
            time.sleep(0.2)
        assert len(calling.result(60)) == 1
        loading.result(60)
    assert not (layer.loaded and detector.resident.process_id)


def test_an_image_that_does_not_fit_is_tried_again_without_the_other_models(
    detector: YoloDetector, images: list[NDArray[np.uint8]]
) -> None:
    detector.detect(images[:1], ALL)
    layer = Layer(detector.runtime)
    layer.load()
    assert layer.loaded
    image = np.zeros((4000, 3000, 3), np.uint8)
    with (
        little_memory_left(detector, image.nbytes * 3 // 2),
        pytest.raises(UserError, match="needs more memory than the detector"),
    ):
        detector.detect([image], ALL)
    assert not layer.loaded
    assert detector.resident.process_id is not None


def stopped(detector: YoloDetector) -> int:
    """The detector's process, which is there and answers nothing."""
    detector.load()
    process = detector.resident.process_id
    assert process is not None
    os.kill(process, signal.SIGSTOP)
    return process


@contextmanager
def little_memory_left(detector: YoloDetector, left: int) -> Iterator[None]:
    """The detector's process can take so many bytes of memory more."""
    process = detector.resident.process_id
    assert process is not None
    (size,) = (line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmSize"))
    limits = resource.prlimit(process, resource.RLIMIT_AS)
    resource.prlimit(process, resource.RLIMIT_AS, (int(size.split()[1]) * 1024 + left, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(process, resource.RLIMIT_AS, limits)


def test_unloading_ends_the_process(detector: YoloDetector) -> None:
    detector.load()
    process = detector.resident.process_id
    assert process is not None
    detector.unload()
    assert detector.resident.process_id is None
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_the_revision_follows_the_content_not_the_name(detector: YoloDetector, weights: Path, tmp_path: Path) -> None:
    def revision(file: Path) -> str:
        return YoloDetector(file, Runtime("cpu"), tmp_path, model_id="m", allow_pickle=True).revision

    shutil.copy(weights, tmp_path / "copy.pt")
    (tmp_path / "other.pt").write_bytes(b"other weights")
    assert revision(tmp_path / "copy.pt") == detector.revision
    assert revision(tmp_path / "other.pt") != detector.revision
    assert detector.revision.startswith(hashlib.sha256(weights.read_bytes()).hexdigest()[:12] + ".")


def test_the_revision_follows_the_release_of_the_library(
    detector: YoloDetector, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "8.0.0" if name == "ultralytics" else version(name))
    other = YoloDetector(weights, Runtime("cpu"), tmp_path, model_id="m", allow_pickle=True)
    assert other.revision != detector.revision
    assert other.revision[:13] == detector.revision[:13]


def test_weights_that_were_replaced_are_never_recorded_under_the_old_revision(
    weights: Path, images: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    file = tmp_path / "best.pt"
    shutil.copyfile(weights, file)
    detector = YoloDetector(file, Runtime("cpu"), tmp_path / "scratch", model_id="m", allow_pickle=True)
    with file.open("ab") as end:
        end.write(b"one more training")
    with pytest.raises(UserError, match=r"best\.pt was replaced while it was in use; run it again"):
        detector.detect(images[:1], ALL)
    assert detector.resident.process_id is None


@pytest.mark.parametrize(
    ("name", "allowed", "sentence"),
    [
        ("there.pt", False, "is a pickle, which may carry code: .* set allow_pickle: true under models"),
        ("missing.pt", True, "there is no such file, and YOLO weights are never downloaded"),
        ("there.onnx", True, r"reads \.pt files of ultralytics"),
    ],
)
def test_a_file_that_is_not_opened_is_one_sentence(tmp_path: Path, name: str, allowed: bool, sentence: str) -> None:
    for there in ("there.pt", "there.onnx"):
        (tmp_path / there).write_bytes(b"weights")
    with pytest.raises(UserError, match=sentence):
        YoloDetector(tmp_path / name, Runtime("cpu"), tmp_path, model_id="m", allow_pickle=allowed)
