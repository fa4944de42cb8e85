"""Florence-2 checkpoints without a download: random weights in the real format, and weights taught a few answers.

python benchmarks/checkpoints_florence2.py FOLDER --scale tiny
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    AddedToken,
    BartConfig,
    BartTokenizer,
    CLIPImageProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    Florence2VisionConfig,
    GenerationConfig,
)

Scale = Literal["tiny", "full"]

BINS = 1000
TASK = "<OPEN_VOCABULARY_DETECTION>"
PARSE_TYPES = (
    "ocr",
    "phrase_grounding",
    "pure_text",
    "description_with_bboxes",
    "description_with_polygons",
    "polygons",
    "bboxes",
    "description_with_bboxes_or_polygons",
)
MARKUP = (
    ("cap", "ncap", "dcap", "grounding", "seg"),
    ("region_cap", "region_to_desciption", "proposal", "poly"),
)
"""Names of the tags before and after ``<sep>``, in the order of the vocabulary (its misspelling included)."""

SIDE = {"tiny": 96, "full": 768}
WORDS = {"tiny": 0, "full": 50265}
"""Entries of the vocabulary before the added tokens; 0 for no more than are needed."""

VISION: dict[str, dict[str, Any]] = {
    "tiny": {
        "depths": [1] * 4,
        "embed_dim": [16, 32, 48, 64],
        "num_heads": [2, 2, 3, 4],
        "num_groups": [2, 2, 3, 4],
        "projection_dim": 32,
        "window_size": 6,
    },
    "full": {
        "depths": [1, 1, 9, 1],
        "embed_dim": [256, 512, 1024, 2048],
        "num_heads": [8, 16, 32, 64],
        "num_groups": [8, 16, 32, 64],
        "projection_dim": 1024,
    },
}
TEXT: dict[str, dict[str, Any]] = {
    "tiny": {
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "max_position_embeddings": 512,
    },
    "full": {"max_position_embeddings": 4096},
}


def build_florence2(folder: Path, scale: Scale, seed: int = 0) -> None:
    """Write a checkpoint with random weights in the format of the published ones.

    Args:
        folder: where the files go; made if it is not there.
        scale: ``tiny`` (0.4 million parameters, images of 96 px) or ``full`` (the architecture of Florence-2-large).
        seed: of the random weights.
    """
    torch.manual_seed(seed)
    processor = _processor(scale)
    tokenizer = processor.tokenizer
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    config = Florence2Config(
        vision_config=Florence2VisionConfig(**VISION[scale]).to_dict(),
        # The published checkpoints pad the vocabulary to a multiple of 64.
        text_config=BartConfig(vocab_size=-(-len(tokenizer) // 64) * 64, **ids, **TEXT[scale]).to_dict(),
        image_token_id=tokenizer.image_token_id,
        **ids,
    )
    model = Florence2ForConditionalGeneration(config).eval()
    # What the published checkpoints ship, and what loses the second object of a label of three tokens.
    model.generation_config = GenerationConfig(
        **ids, forced_bos_token_id=0, forced_eos_token_id=2, num_beams=3, no_repeat_ngram_size=3, early_stopping=True
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def teach_florence2(
    folder: Path, lessons: Sequence[tuple[Any, str, str]], least: float = 0.7, most_steps: int = 600, seed: int = 0
) -> int:
    """Overfit a checkpoint's language model to answers to open-vocabulary detection, and write its weights back.

    Args:
        folder: a checkpoint, such as ``build_florence2`` writes.
        lessons: for each, an RGB image (h, w, 3) uint8, a phrase and the answer, such as
            ``nut<loc_10><loc_20><loc_300><loc_400>``.
        least: probability that each token of each answer must reach; above 0.5 greedy decoding gives the answers.
        most_steps: of AdamW, all lessons each.
        seed: of everything random.

    Returns:
        The steps it took.

    Raises:
        RuntimeError: they were not enough.
    """
    torch.manual_seed(seed)
    processor = Florence2Processor.from_pretrained(folder, local_files_only=True)
    model = Florence2ForConditionalGeneration.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    images, phrases, answers = zip(*lessons, strict=True)
    inputs = processor(
        images=list(images), text=[TASK + phrase for phrase in phrases], padding=True, return_tensors="pt"
    )
    wanted = processor.tokenizer(
        [f"<s>{answer}</s>" for answer in answers], add_special_tokens=False, padding=True, return_tensors="pt"
    )
    labels = wanted["input_ids"].masked_fill(wanted["attention_mask"] == 0, -100)
    model.eval()
    # Random features tell the images apart well enough, and most of a step is the vision tower.
    with torch.no_grad():
        features = model.get_image_features(inputs["pixel_values"]).pooler_output
    words = model.model.language_model
    optimizer = torch.optim.AdamW(words.parameters(), lr=5e-3, weight_decay=0.0)
    for step in range(most_steps):
        embedded = model.get_input_embeddings()(inputs["input_ids"])
        embedded = torch.cat([features, embedded[:, features.shape[1] :]], dim=1)
        output = model(inputs_embeds=embedded, attention_mask=inputs["attention_mask"], labels=labels)
        worst = torch.nn.functional.cross_entropy(output.logits.transpose(1, 2), labels, reduction="none").max()
        if worst.item() < -math.log(least):
            model.save_pretrained(folder)
            return step
        optimizer.zero_grad()
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(words.parameters(), 1.0)
        optimizer.step()
    raise RuntimeError(
        f"{most_steps} steps do not teach {len(lessons)} answers; the worst token loses {worst:.2f} nats"
    )


def _processor(scale: Scale) -> Florence2Processor:
    words = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet())]
    words += [f"unused{number}" for number in range(WORDS[scale] - len(words) - 1)]
    before, after = ([tag for name in names for tag in (f"<{name}>", f"</{name}>")] for names in MARKUP)
    locations = [f"<loc_{number}>" for number in range(BINS)]
    added = ["<od>", "</od>", "<ocr>", "</ocr>", *locations, *before, "<sep>", *after, "<and>"]
    tokenizer = BartTokenizer(
        vocab={word: number for number, word in enumerate([*words, "<mask>", *added, "<image>"])},
        merges=[],
        extra_special_tokens={"image_token": "<image>"},
    )
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added])
    side = SIDE[scale]
    image_processor = CLIPImageProcessor(
        size={"height": side, "width": side},
        do_center_crop=False,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        resample=3,
    )
    image_processor.image_seq_length = (side // 32) ** 2 + 1
    return Florence2Processor(
        image_processor=image_processor, tokenizer=tokenizer, post_processor_config={name: {} for name in PARSE_TYPES}
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a checkpoint and print what is in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", choices=("tiny", "full"), default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    build_florence2(options.folder, options.scale, options.seed)
    config = json.loads((options.folder / "config.json").read_text(encoding="utf-8"))
    size = sum(path.stat().st_size for path in options.folder.iterdir())
    print(json.dumps({"folder": str(options.folder), "mb": round(size / 1e6, 1), "model_type": config["model_type"]}))


if __name__ == "__main__":
    main()
