import runpy
import shutil
import weakref
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import EdgeTamModel, Sam2Model, Sam2Processor

from al_dagster.core.errors import UserError
from al_dagster.vision import network_input, sam2, sam2_transforms
from al_dagster.vision.grabcut import whole_pixels
from al_dagster.vision.mask_cleaning import clean_mask
from al_dagster.vision.protocols import Mask
from al_dagster.vision.residency import Residency
from al_dagster.vision.sam2 import Sam2Segmenter
from al_dagster.vision.torch_runtime import Runtime
from al_dagster.vision.weights import Weights, record

pytestmark = pytest.mark.usefixtures("one_thread")

MODELS = {"sam2": Sam2Model, "edgetam": EdgeTamModel}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    build = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "checkpoints_sam2.py"))
    folders = {name: tmp_path_factory.mktemp(name) for name in MODELS}
    for name, folder in folders.items():
        build[f"build_{name}"](folder, "tiny", seed=1)
    return folders


@pytest.fixture(scope="module", params=list(MODELS))
def name(request):
    return request.param


def weights_of(folder: Path) -> Weights:
    return record(folder, "tiny", origin="a test")


@pytest.fixture(scope="module")
def segmenter(checkpoints, name):
    return Sam2Segmenter(weights_of(checkpoints[name]), Runtime("cpu"))


@pytest.fixture(scope="module")
def images():
    """Four images of three sizes with large blotches of colour."""
    rng = np.random.default_rng(4)
    small = [rng.integers(0, 256, (9, 12, 3), dtype=np.uint8) for _ in range(4)]
    return [image.repeat(scale, 0).repeat(scale, 1) for image, scale in zip(small, (10, 10, 15, 7), strict=True)]


@pytest.fixture(scope="module")
def boxes():
    return [
        np.array([[10.0, 10, 60, 60], [5, 40.5, 100, 80], [0, 0, 120, 90]]),
        np.array([[80.0, 5, 110, 30]]),
        np.empty((0, 4)),
        np.array([[0.0, 0, 30, 20], [50, 40, 84, 63]]),
    ]


def reference_logits(
    folder: Path, name: str, image: np.ndarray, **prompts: object
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the plain library gives: mask logits (k, m, height, width) at the image's resolution and predicted IoU."""
    processor, model = Sam2Processor.from_pretrained(folder), MODELS[name].from_pretrained(folder).eval()
    several = bool(prompts.pop("several", False))
    inputs = processor(images=[image], return_tensors="pt", **prompts)
    sizes = inputs.pop("original_sizes")
    with torch.no_grad():
        outputs = model(**inputs, multimask_output=several)
    logits = processor.post_process_masks(outputs.pred_masks, sizes, binarize=False)[0]
    return logits, outputs.iou_scores[0]


def flat(masks: list[list[Mask]]) -> list[Mask]:
    return list(chain.from_iterable(masks))


def iou(one: np.ndarray, other: np.ndarray) -> float:
    union = (one | other).sum()
    return float((one & other).sum() / union) if union else 1.0


def test_the_fast_path_gives_the_masks_of_the_plain_library_cut_to_the_boxes(
    checkpoints, name, segmenter, images, boxes
):
    masks = segmenter.segment(images, boxes)
    assert [len(of_image) for of_image in masks] == [3, 1, 0, 2]
    shown = 0
    for image, of_image, found in zip(images, boxes, masks, strict=True):
        if not len(of_image):
            continue
        logits, scores = reference_logits(checkpoints[name], name, image, input_boxes=[of_image.tolist()])
        for box, mask, logit, score in zip(of_image, found, logits[:, 0].numpy(), scores[:, 0].tolist(), strict=True):
            x1, y1, x2, y2 = whole_pixels(box, image.shape[1], image.shape[0])
            assert (mask.x, mask.y, mask.pixels.shape) == (x1, y1, (y2 - y1, x2 - x1))
            assert iou(mask.pixels, clean_mask(logit[y1:y2, x1:x2] > 0)) >= 0.999
            assert mask.score == pytest.approx(score, abs=1e-5)
            shown += mask.area
    assert shown > 1000


def test_a_batch_gives_what_its_images_give_alone(segmenter, images, boxes):
    together = segmenter.segment(images, boxes)
    for image, of_image, found in zip(images, boxes, together, strict=True):
        alone = segmenter.segment([image], [of_image])[0]
        for one, other in zip(found, alone, strict=True):
            assert iou(one.pixels, other.pixels) >= 0.99
            assert one.score == pytest.approx(other.score, abs=1e-5)


def test_chunks_of_images_and_boxes_change_nothing(checkpoints, images, boxes, monkeypatch):
    whole = Sam2Segmenter(weights_of(checkpoints["sam2"]), Runtime("cpu")).segment(images, boxes)
    monkeypatch.setitem(sam2.IMAGES_PER_CALL, "cpu", 2)
    monkeypatch.setitem(sam2.PROMPTS_PER_CALL, "cpu", 2)
    monkeypatch.setattr(sam2_transforms, "PIXELS_AT_ONCE", 1000)
    small = Sam2Segmenter(weights_of(checkpoints["sam2"]), Runtime("cpu")).segment(images, boxes)
    for one, other in zip(flat(whole), flat(small), strict=True):
        assert iou(one.pixels, other.pixels) >= 0.99
        assert (one.x, one.y) == (other.x, other.y)


def test_images_without_boxes_do_not_load_the_model(tmp_path, images):
    segmenter = Sam2Segmenter(weights_of(tmp_path), Runtime("cpu"))
    assert segmenter.segment(images[:2], [np.empty((0, 4)), np.empty((0, 4))]) == [[], []]
    assert segmenter.segment([], []) == []
    assert segmenter.segment_points(images[:1], [np.empty((0, 1, 2))], [np.empty((0, 1), int)]) == [[]]


@pytest.mark.parametrize(
    ("box", "where"),
    [
        ((0, 0, 120, 90), (0, 0, 120, 90)),
        ((100, 70, 120, 90), (100, 70, 20, 20)),
        ((30.2, 40.1, 30.4, 40.3), (30, 40, 1, 1)),
        ((30.6, 40.6, 31.4, 41.4), (30, 40, 2, 2)),
        ((-20, -10, 15.5, 12), (0, 0, 16, 12)),
        ((110, 80, 150, 140), (110, 80, 10, 10)),
        ((130, 95, 150, 140), (119, 89, 1, 1)),
    ],
)
def test_a_mask_covers_the_pixels_its_box_touches_in_the_image(segmenter, images, box, where):
    (mask,) = segmenter.segment(images[:1], [np.array([box])])[0]
    height, width = mask.pixels.shape
    assert (mask.x, mask.y, width, height) == where
    assert mask.pixels.dtype == bool
    assert 0 <= mask.score <= 1


def test_a_large_image_with_many_boxes_is_cut_in_steps(segmenter, images, monkeypatch):
    large = np.repeat(np.repeat(images[0], 10, 0), 10, 1)
    many = np.tile(np.array([[0.0, 0, 1200, 900], [100, 100, 400, 300]]), (3, 1))
    whole = segmenter.segment([large], [many])[0]
    monkeypatch.setattr(network_input, "LARGEST_ON_DEVICE", 0)
    monkeypatch.setattr(sam2_transforms, "PIXELS_AT_ONCE", 100_000)
    masks = segmenter.segment([large], [many])[0]
    assert [mask.pixels.shape for mask in masks] == [(900, 1200), (200, 300)] * 3
    assert all(iou(one.pixels, other.pixels) >= 0.999 for one, other in zip(whole, masks, strict=True))


def test_points_give_the_masks_of_the_plain_library(checkpoints, name, segmenter, images):
    single, pairs = np.array([[[30.0, 30]], [[100, 70]]]), np.array([[[20.5, 20], [60, 70]]])
    masks = segmenter.segment_points(
        [images[0], images[2], images[3]],
        [single, np.empty((0, 1, 2)), pairs],
        [np.ones((2, 1), int), np.empty((0, 1), int), np.array([[1, 0]])],
    )
    assert [len(of_image) for of_image in masks] == [2, 0, 1]
    logits, scores = reference_logits(
        checkpoints[name], name, images[0], input_points=[single.tolist()], input_labels=[[[1], [1]]], several=True
    )
    expected = [
        (logit[best], score[best]) for logit, score in zip(logits, scores, strict=True) for best in [score.argmax()]
    ]
    logits, scores = reference_logits(
        checkpoints[name], name, images[3], input_points=[pairs.tolist()], input_labels=[[[1, 0]]]
    )
    expected.append((logits[0, 0], scores[0, 0]))
    for mask, image, (logit, score) in zip(flat(masks), [images[0]] * 2 + [images[3]], expected, strict=True):
        full = mask.full(*image.shape[1::-1])
        assert iou(full, clean_mask(logit.numpy() > 0)) >= 0.999
        assert mask.score == pytest.approx(float(score), abs=1e-5)
        assert mask.pixels[0].any()
        assert mask.pixels[:, -1].any()


def test_unloading_frees_the_weights_and_the_next_call_loads_them_again(segmenter, images, boxes):
    before = segmenter.segment(images[:1], boxes[:1])[0]
    weight = weakref.ref(next(segmenter.module.parameters()))
    segmenter.unload()
    assert weight() is None
    after = segmenter.segment(images[:1], boxes[:1])[0]
    assert all(np.array_equal(one.pixels, other.pixels) for one, other in zip(before, after, strict=True))


def test_a_batch_that_runs_out_of_memory_is_halved_and_loses_no_mask(checkpoints, images, boxes, monkeypatch):
    segmenter = Sam2Segmenter(weights_of(checkpoints["sam2"]), Runtime("cpu"))
    whole = segmenter.segment(images, boxes)
    network, sizes = segmenter.network, {"features": [], "masks": []}
    for half, most in (("features", 1), ("masks", 2)):
        run = getattr(network, half)

        def limited(values, *rest, half=half, most=most, run=run):
            count = len(values) if half == "features" else len(values[0])
            sizes[half].append(count)
            if count > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return run(values, *rest)

        monkeypatch.setattr(network, half, limited)
    again = segmenter.segment(images, boxes)
    assert max(sizes["features"]) == 3
    assert max(sizes["masks"]) == 6
    for one, other in zip(flat(whole), flat(again), strict=True):
        assert iou(one.pixels, other.pixels) >= 0.99


def test_compiled_networks_get_batches_of_few_sizes_and_give_the_same_masks(checkpoints, images, boxes):
    plain = Sam2Segmenter(weights_of(checkpoints["sam2"]), Runtime("cpu")).segment(images, boxes)
    compiled = Sam2Segmenter(weights_of(checkpoints["sam2"]), Runtime("cpu", compile=True))
    assert [compiled._filled(torch.arange(count))[-2:].tolist() for count in (2, 5)] == [[0, 1], [4, 4]]
    assert len(compiled._filled(torch.arange(5))) == 8
    with torch.compiler.set_stance("force_eager"):
        masks = compiled.segment(images, boxes)
    for one, other in zip(flat(plain), flat(masks), strict=True):
        assert iou(one.pixels, other.pixels) >= 0.99


def test_the_revision_says_which_weights_and_the_budget_counts_them(checkpoints):
    residency = Residency(8)
    segmenter = Sam2Segmenter(weights_of(checkpoints["sam2"]), Runtime("cpu", residency=residency))
    assert segmenter.model_id == "tiny"
    assert segmenter.revision.startswith(f"{segmenter.weights.revision}.")
    segmenter.load()
    assert not residency.release_others(segmenter)
    assert residency.release_others(Sam2Segmenter(weights_of(checkpoints["sam2"]), Runtime("cpu")))
    assert segmenter._module is None


def test_weights_that_were_replaced_before_they_are_loaded_are_refused(tmp_path, checkpoints, images, boxes):
    folder = shutil.copytree(checkpoints["sam2"], tmp_path / "sam2")
    segmenter = Sam2Segmenter(weights_of(folder), Runtime("cpu"))
    (folder / "notes.txt").write_text("another release")
    weights_of(folder)
    with pytest.raises(UserError, match="model tiny was replaced during this run"):
        segmenter.segment(images[:1], boxes[:1])


def test_prompts_for_another_number_of_images_are_refused(segmenter, images, boxes):
    with pytest.raises(ValueError, match="expected prompts for 2 images, got them for 1"):
        segmenter.segment(images[:2], boxes[:1])


def test_masks_of_a_seed_differ_between_boxes(segmenter, images):
    moved = np.array([[x, 10.0, x + 40, 60] for x in range(0, 80, 20)])
    masks = segmenter.segment(images[:1], [moved])[0]
    assert any(not np.array_equal(one.pixels, other.pixels) for one, other in pairwise(masks))
