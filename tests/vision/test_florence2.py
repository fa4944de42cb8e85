"""The detector on a tiny checkpoint that was taught a few answers, in the format of the published ones."""

import json
import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PilImage
from transformers import Florence2ForConditionalGeneration, Florence2Processor

from al_dagster.core.errors import UserError
from al_dagster.core.project import PROPOSAL
from al_dagster.vision.florence2 import Florence2Detector
from al_dagster.vision.protocols import P_BOX, P_LABEL, Prompt
from al_dagster.vision.torch_runtime import Runtime
from al_dagster.vision.weights import record

pytestmark = pytest.mark.usefixtures("one_thread")

TASK = "<OPEN_VOCABULARY_DETECTION>"
GREEDY = {"num_beams": 1, "do_sample": False, "no_repeat_ngram_size": 0, "early_stopping": False, "max_new_tokens": 64}
SIZES = {"wide": (80, 60), "tall": (64, 96), "large": (300, 200)}
TAUGHT = {
    ("wide", "nut"): "nut<loc_125><loc_166><loc_375><loc_500><loc_600><loc_600><loc_800><loc_900>",
    ("wide", "bolt"): "bolt<loc_10><loc_20><loc_590><loc_980>",
    ("wide", "hex nut"): "hex nut<loc_126><loc_166><loc_376><loc_502>",
    ("tall", "nut"): "nut<loc_300><loc_400><loc_780><loc_830>",
    ("tall", "bolt"): "bolt<poly><loc_100><loc_150><loc_300><loc_120><loc_250><loc_700><sep><loc_400><loc_400></poly>",
    ("tall", "hex nut"): "hex nut<loc_5><loc_5><loc_30><loc_40>hex nut<loc_500><loc_50><loc_900><loc_300>",
    ("large", "nut"): "nut<loc_0><loc_0><loc_999><loc_999>",
    ("large", "bolt"): "none",
    ("large", "hex nut"): "bolt<loc_200><loc_200><loc_400><loc_400>",
}
PHRASES = ("nut", "bolt", "hex nut")
BOTH = (Prompt("nut", synonyms=("hex nut",)), Prompt("bolt"))


def _images():
    wide, tall, large = (np.full((height, width, 3), 30, np.uint8) for width, height in SIZES.values())
    wide[10:30, 10:30] = (230, 0, 0)
    tall[40:80, 20:50] = (0, 220, 0)
    large[:, 150:] = (200, 200, 255)
    return dict(zip(SIZES, (wide, tall, large), strict=True))


IMAGES = _images()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, one_thread):
    path = tmp_path_factory.mktemp("florence2")
    tools = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "checkpoints_florence2.py"))
    tools["build_florence2"](path, "tiny")
    lessons = [(IMAGES[name], phrase, answer) for (name, phrase), answer in TAUGHT.items()]
    tools["teach_florence2"](path, lessons)
    return path


def weights_of(folder):
    return record(folder, "florence-2-tiny", origin="a test")


def build(folder, *, compiled=False, **options):
    return Florence2Detector(weights_of(folder), Runtime("cpu", compile=compiled), **options)


@pytest.fixture(scope="module")
def detector(folder):
    return build(folder, max_new_tokens=64)


@pytest.fixture(scope="module")
def reference(folder):
    """The plain way: transformers' own classes, one image and phrase at a time."""
    processor = Florence2Processor.from_pretrained(folder)
    return processor, Florence2ForConditionalGeneration.from_pretrained(folder)


def same(first, second):
    """Whether two detections are equal: boxes and classes exactly, confidences to the fifth place."""
    np.testing.assert_allclose(first.xyxy, second.xyxy, atol=1e-4)
    assert first.class_id.tolist() == second.class_id.tolist()
    for one, other in [(first.confidence, second.confidence)] + [
        (first.data[key], second.data[key]) for key in (P_LABEL, P_BOX)
    ]:
        np.testing.assert_allclose(one, other, atol=1e-5)
    return True


def pixels(name, *bins):
    return [(value + 0.5) / 1000 * SIZES[name][side % 2] for side, value in enumerate(bins)]


def test_taught_objects_are_found_where_they_are(detector):
    wide, tall, large = detector.detect(list(IMAGES.values()), BOTH)
    assert sorted(zip(wide.class_id.tolist(), wide.xyxy.tolist(), strict=True)) == [
        (0, pytest.approx(pixels("wide", 126, 166, 376, 502), abs=0.2)),
        (0, pytest.approx(pixels("wide", 600, 600, 800, 900), rel=1e-5)),
        (1, pytest.approx(pixels("wide", 10, 20, 590, 980), rel=1e-5)),
    ]
    assert tall.xyxy[tall.class_id == 1].tolist() == [pytest.approx(pixels("tall", 100, 120, 400, 700), rel=1e-5)]
    assert sorted(tall.xyxy[tall.class_id == 0].tolist()) == [
        pytest.approx(pixels("tall", *bins), rel=1e-5)
        for bins in [(5, 5, 30, 40), (300, 400, 780, 830), (500, 50, 900, 300)]
    ]
    assert large.xyxy.tolist() == [pytest.approx(pixels("large", 0, 0, 999, 999), rel=1e-5)]
    for name, found in zip(SIZES, (wide, tall, large), strict=True):
        assert (found.xyxy >= 0).all()
        assert (found.xyxy <= np.tile(SIZES[name], 2)).all()
        assert (np.diff(found.confidence) <= 0).all()
        assert found.confidence == pytest.approx(found.data[P_LABEL] * found.data[P_BOX], rel=1e-5)
        assert ((found.confidence > 0) & (found.confidence <= 1)).all()


def test_a_batch_equals_single_calls(detector):
    prompts = (*BOTH, Prompt("hex nut", negatives=("bolt",)))
    images = [IMAGES[name] for name in ("large", "wide", "tall", "wide")]
    together = detector.detect(images, prompts)
    assert sum(len(found) for found in together) > 6
    assert all(same(found, detector.detect([image], prompts)[0]) for image, found in zip(images, together, strict=True))


def test_phrases_asked_together_are_answered_as_alone(detector):
    (together,) = detector.detect([IMAGES["tall"]], [Prompt(phrase) for phrase in PHRASES])
    for index, phrase in enumerate(PHRASES):
        (alone,) = detector.detect([IMAGES["tall"]], [Prompt(phrase)])
        found = together[together.class_id == index]
        found.class_id[:] = 0
        assert same(found, alone)


@pytest.mark.parametrize("phrase", PHRASES)
def test_the_fast_path_equals_the_plain_one(detector, reference, phrase):
    processor, model = reference
    for (name, image), found in zip(
        IMAGES.items(), detector.detect(list(IMAGES.values()), [Prompt(phrase)]), strict=True
    ):
        inputs = processor(images=image, text=TASK + phrase, return_tensors="pt")
        text = processor.batch_decode(model.generate(**inputs, **GREEDY), skip_special_tokens=False)[0]
        assert TAUGHT[name, phrase] in text
        read = processor.post_process_generation(text, task=TASK, image_size=SIZES[name])[TASK]
        boxes = [box for box, label in zip(read["bboxes"], read["bboxes_labels"], strict=True) if label == phrase]
        for polygons in read["polygons"]:
            points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in polygons])
            boxes.append([*points.min(axis=0).tolist(), *points.max(axis=0).tolist()])
        # transformers cuts to whole pixels.
        assert sorted(found.xyxy.astype(int).tolist()) == sorted(boxes)


def test_the_confidence_is_the_product_of_the_probabilities_of_its_tokens(detector, reference):
    processor, model = reference
    name, phrase = "wide", "nut"
    inputs = processor(images=IMAGES[name], text=TASK + phrase, return_tensors="pt")
    sequence = torch.tensor(
        [[2, *processor.tokenizer(f"<s>{TAUGHT[name, phrase]}", add_special_tokens=False).input_ids]]
    )
    with torch.no_grad():
        logits = model(**inputs, decoder_input_ids=sequence[:, :-1]).logits[0]
    probability = logits.softmax(dim=-1)[torch.arange(len(logits)), sequence[0, 1:]].tolist()
    tokens = processor.tokenizer.convert_ids_to_tokens(sequence[0, 1:])
    assert tokens[:4] == ["<s>", "n", "u", "t"]
    label = probability[1] * probability[2] * probability[3]
    first = probability[4] * probability[5] * probability[6] * probability[7]
    second = probability[8] * probability[9] * probability[10] * probability[11]
    (found,) = detector.detect([IMAGES[name]], [Prompt(phrase)])
    order = np.argsort(found.xyxy[:, 0])
    assert found.data[P_LABEL] == pytest.approx([label, label], rel=1e-4)
    assert found.data[P_BOX][order] == pytest.approx([first, second], rel=1e-4)
    assert found.confidence[order] == pytest.approx([label * first, label * second], rel=1e-4)
    assert all(0.2 < value < 0.9999 for value in (label, first, second))


def test_each_image_is_encoded_once_however_many_phrases_are_asked(detector):
    encoded = []
    tower = detector.module.model.vision_tower
    hook = tower.register_forward_hook(lambda _, given, __: encoded.append(given[0]))
    try:
        detector.detect(list(IMAGES.values()), (*BOTH, Prompt("hex nut", negatives=("washer",))))
    finally:
        hook.remove()
    assert sum(len(batch) for batch in encoded) == len(IMAGES)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_images_are_prepared_as_the_checkpoint_prepares_them(folder, reference, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    detector = Florence2Detector(weights_of(folder), Runtime(device), max_new_tokens=2)
    noise = np.random.default_rng(0).integers(0, 256, (150, 210, 3)).astype(np.uint8)
    images = [noise, *IMAGES.values()]
    prepared = []
    tower = detector.module.model.vision_tower
    tower.register_forward_hook(lambda _, given, __: prepared.extend(given[0].float().cpu()))
    detector.detect(images, [Prompt("nut")])
    plain = reference[0].image_processor([PilImage.fromarray(image) for image in images], return_tensors="pt")
    # A grey level is 0.018 after normalisation, and bfloat16 has eight bits.
    torch.testing.assert_close(
        torch.stack(prepared), plain["pixel_values"], atol=0.03 if device == "cuda" else 1e-6, rtol=0
    )


def test_what_a_checkpoint_ships_for_generation_changes_nothing(folder, detector, reference, tmp_path):
    shipped = json.loads((folder / "generation_config.json").read_text())
    assert (shipped["num_beams"], shipped["no_repeat_ngram_size"]) == (3, 3)
    spoilt = shutil.copytree(folder, tmp_path / "spoilt")
    processor, model = reference
    unwanted = processor.tokenizer.convert_tokens_to_ids(["<loc_5>", "<loc_500>"])
    hostile = {**shipped, "repetition_penalty": 5.0, "suppress_tokens": unwanted, "max_length": 9, "do_sample": True}
    (spoilt / "generation_config.json").write_text(json.dumps(hostile))
    found, expected = (
        one.detect([IMAGES["tall"]], [Prompt("hex nut")])[0] for one in (build(spoilt, max_new_tokens=64), detector)
    )
    assert len(expected) == 2
    assert same(found, expected)
    inputs = processor(images=IMAGES["tall"], text=TASK + "hex nut", return_tensors="pt")
    text = processor.batch_decode(model.generate(**inputs, max_new_tokens=64), skip_special_tokens=False)[0]
    assert text.count("hex nut") < 2


def test_an_answer_about_something_else_is_dropped(detector):
    (found,) = detector.detect([IMAGES["large"]], [Prompt("hex nut")])
    assert len(found) == 0
    assert found.xyxy.shape == (0, 4)
    assert set(found.data) == {P_LABEL, P_BOX}
    assert len(found.confidence) == len(found.class_id) == 0


def _at_the_first_nut(found):
    return [
        (int(class_id), float(confidence))
        for box, class_id, confidence in zip(found.xyxy, found.class_id, found.confidence, strict=True)
        if abs(box[0] - 10) < 1 and abs(box[2] - 30) < 1
    ]


def test_an_object_found_under_two_phrases_has_one_box(detector):
    image = [IMAGES["wide"]]
    alone = {
        phrase: _at_the_first_nut(detector.detect(image, [Prompt(phrase)])[0])[0][1] for phrase in ("nut", "hex nut")
    }
    surer = max(alone.values())
    synonyms = _at_the_first_nut(detector.detect(image, [Prompt("nut", synonyms=("hex nut",))])[0])
    assert synonyms == [(0, pytest.approx(surer, abs=1e-5))]
    classes = _at_the_first_nut(detector.detect(image, [Prompt("nut"), Prompt("hex nut")])[0])
    assert classes == [(int(alone["hex nut"] == surer), pytest.approx(surer, abs=1e-5))]


def test_a_box_that_a_negative_explains_better_is_dropped(detector):
    image = [IMAGES["wide"]]
    unsure, sure = sorted(
        ("nut", "hex nut"), key=lambda phrase: _at_the_first_nut(detector.detect(image, [Prompt(phrase)])[0])[0][1]
    )
    assert not _at_the_first_nut(detector.detect(image, [Prompt(unsure, negatives=(sure,))])[0])
    assert _at_the_first_nut(detector.detect(image, [Prompt(sure, negatives=(unsure,))])[0])


def test_an_unfinished_box_is_dropped(folder):
    # The start, three letters and the four locations of the first of two boxes, and two of the second.
    (found,) = build(folder, max_new_tokens=10).detect([IMAGES["wide"]], [Prompt("nut")])
    assert found.xyxy.tolist() == [pytest.approx(pixels("wide", 125, 166, 375, 500), rel=1e-5)]


def test_unloading_frees_the_weights_and_the_next_call_loads_them_again(folder):
    detector = build(folder, max_new_tokens=16)
    before = detector.detect([IMAGES["wide"]], [Prompt("nut")])[0]
    first = detector.module
    detector.unload()
    assert same(detector.detect([IMAGES["wide"]], [Prompt("nut")])[0], before)
    assert detector.module is not first


def test_running_out_of_memory_loses_no_box(folder, detector):
    expected = detector.detect(list(IMAGES.values()), BOTH)
    tight = build(folder, max_new_tokens=64)
    sizes = []

    def limit(_, given, options):
        sizes.append(len(options["input_ids"] if "input_ids" in options else given[0]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    tight.module.model.language_model.decoder.register_forward_pre_hook(limit, with_kwargs=True)
    found = tight.detect(list(IMAGES.values()), BOTH)
    assert max(sizes) == 8
    assert sizes[-1] <= 2
    assert all(same(one, other) for one, other in zip(found, expected, strict=True))


def test_fixed_shapes_for_compiled_code_change_no_box(folder, detector):
    images = [IMAGES["wide"], IMAGES["tall"]]
    expected = detector.detect(images, BOTH)
    compiled = build(folder, max_new_tokens=64, compiled=True)
    shapes = set()
    compiled.module.model.language_model.encoder.register_forward_pre_hook(
        lambda _, __, given: shapes.add(tuple(given["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    with torch.compiler.set_stance("force_eager"):
        found = compiled.detect(images, BOTH)
    assert shapes == {(8, 10 + 32)}
    assert all(same(one, other) for one, other in zip(found, expected, strict=True))


def test_half_the_precision_finds_the_same_objects(folder, detector, half_precision):
    half = Florence2Detector(weights_of(folder), half_precision, max_new_tokens=64)
    assert half.module.dtype == torch.bfloat16
    images = [IMAGES["wide"], IMAGES["tall"]]
    for found, expected in zip(half.detect(images, BOTH), detector.detect(images, BOTH), strict=True):
        assert sorted(found.xyxy[:, 2].round(1).tolist()) == pytest.approx(sorted(expected.xyxy[:, 2]), abs=0.2)
        assert sorted(found.class_id.tolist()) == sorted(expected.class_id.tolist())


def test_the_words_to_choose_from_are_compared_in_full_precision(folder, half_precision):
    half = Florence2Detector(weights_of(folder), half_precision, max_new_tokens=64)
    logits = []
    half.module.lm_head.register_forward_hook(lambda _, __, given: logits.append(given))
    half.detect([IMAGES["wide"]], BOTH)
    assert {one.dtype for one in logits} == {torch.float32}
    rounded = torch.cat(logits).bfloat16().float()
    assert not torch.equal(rounded, torch.cat(logits))


def test_no_images_have_no_detections(detector):
    assert detector.detect([], BOTH) == []


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ((), "at least one class"),
        ((Prompt("nut"), Prompt(PROPOSAL)), "makes no proposals"),
        ((Prompt("nut", synonyms=(" ",)),), "'nut' has an empty phrase"),
        ((Prompt("nut", negatives=("",)),), "'nut' has an empty phrase"),
    ],
)
def test_what_cannot_be_asked_is_an_error(detector, prompts, message):
    with pytest.raises(UserError, match=message):
        detector.check_prompts(prompts)


def test_any_phrase_can_be_asked(detector):
    detector.check_prompts([Prompt("<OD> {x} ünïcode", synonyms=("a red car",))])
    (found,) = detector.detect([IMAGES["wide"]], [Prompt("<OD> {x} ünïcode")])
    assert len(found) == 0


def test_weights_that_were_replaced_before_they_are_loaded_are_refused(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "florence2")
    detector = build(copied)
    (copied / "notes.txt").write_text("another release")
    weights_of(copied)
    with pytest.raises(UserError, match="model florence-2-tiny was replaced during this run"):
        detector.detect([IMAGES["wide"]], BOTH)


def test_the_revision_changes_with_the_weights_and_the_parameters(folder):
    weights = weights_of(folder)
    others = Florence2Detector(replace(weights, revision="f" * 12), Runtime("cpu"))
    revisions = {build(folder).revision, others.revision, build(folder, max_new_tokens=9).revision}
    assert len(revisions) == 3
    assert all(revision[:12] in (weights.revision, "f" * 12) for revision in revisions)
    assert build(folder).revision == build(folder).revision
