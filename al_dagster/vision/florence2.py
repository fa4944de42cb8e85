"""Florence-2: finds anything that can be named, one question a phrase.

Xiao et al., "Florence-2: Advancing a Unified Representation for a Variety of Vision Tasks", 2023 (arXiv 2311.06242);
the implementation and the checkpoint format are those of transformers.
"""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import supervision as sv
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    Florence2ForConditionalGeneration,
    Florence2Processor,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
)

from al_dagster.core.errors import UserError
from al_dagster.core.fingerprints import fingerprint
from al_dagster.core.project import PROPOSAL
from al_dagster.vision.checkpoints import read_network
from al_dagster.vision.florence2_tokens import BINS, Answer, Vocabulary, names_phrase, read_answer
from al_dagster.vision.network_input import LARGEST_ON_DEVICE
from al_dagster.vision.precision import FullPrecision
from al_dagster.vision.protocols import P_BOX, P_LABEL, Image, Prompt
from al_dagster.vision.suppression import RULES, choose_boxes
from al_dagster.vision.torch_runtime import Runtime, TorchModel
from al_dagster.vision.weights import Weights

CODE_VERSION = "2"
TASK = "<OPEN_VOCABULARY_DETECTION>"

LEAST_CONFIDENCE = 1e-4
"""A probability of 0.1 for each side of a box whose label is certain. The product of four is small even where the model
is sure: a bin is less than a pixel of the network's input, and a soft edge spreads over several."""

_AT_ONCE = {"cuda": (64, 32, 128)}
_AT_ONCE_ELSEWHERE = (4, 4, 8)
"""Images a call, and most images encoded and most answers written side by side. On a GPU a step of the decoder takes
about as long for one answer as for a hundred, and batches are fitted to its memory; elsewhere larger batches only take
more memory."""

_COMPILED_PROMPT = 16
"""Prompts are padded to a multiple of it for compiled code, which is compiled anew for every shape."""


@dataclass(frozen=True)
class _Question:
    """A phrase asked of an image, both by their index."""

    image: int
    phrase: int


class Florence2Detector(TorchModel):
    """Finds objects by phrases with a Florence-2 checkpoint in transformers' format.

    Each phrase, be it a label, a synonym or a negative, is one question (open-vocabulary detection) for each image;
    each image is encoded once for all of them. Answers are generated greedily, whatever generation settings the
    checkpoint ships. An answer whose label does not mean the phrase is dropped
    (``florence2_tokens.names_phrase``), and ``suppression.choose_boxes`` leaves one box for each object.

    The confidence of a box is ``p_label * p_box``: the probability that the model gave the words of its label, and
    that it gave the four locations of its sides, from the raw logits. Both are kept in ``Detections.data``. The
    figure ranks boxes of one class. It is no calibrated probability of being right: it falls with the number of words
    of a label, and of the many ways to draw nearly the same box it counts one.

    Args:
        weights: the checkpoint.
        runtime: where it runs. When compiled, the vision tower and the decoder's step run as compiled code on fixed
            shapes: prompts are padded to a multiple of 16 tokens, batches to a power of two.
        max_new_tokens: longest answer, in tokens: a box takes four, a label some.

    Raises:
        UserError: the runtime's device is not there.
    """

    least_confidence = LEAST_CONFIDENCE

    def __init__(self, weights: Weights, runtime: Runtime, *, max_new_tokens: int = 256) -> None:
        super().__init__(runtime)
        self.model_id = weights.name
        parameters = fingerprint(max_new_tokens=max_new_tokens, task=TASK, bins=BINS, rules=asdict(RULES))
        self.revision = f"{weights.revision}.{CODE_VERSION}.{parameters[:8]}"
        self._weights = weights
        self._max_new_tokens = max_new_tokens
        self.images_per_call, encoded, questions = _AT_ONCE.get(self.device.type, _AT_ONCE_ELSEWHERE)
        self._images = self.micro_batches(encoded)
        self._questions = self.micro_batches(questions)

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Check that there is something to ask for that has a name.

        Raises:
            UserError: there is no prompt, one is for class-agnostic proposals, or a phrase is empty.
        """
        if not prompts:
            raise UserError(f"{self.model_id} needs the name of at least one class; list them under 'classes'")
        for prompt in prompts:
            if prompt.label == PROPOSAL:
                raise UserError(
                    f"{self.model_id} finds what is named and makes no proposals for classes labelled by example; "
                    "give such a project a detector that makes them"
                )
            if not all(phrase.strip() for phrase in (*prompt.phrases, *prompt.negatives)):
                raise UserError(f"class {prompt.label!r} has an empty phrase; remove it from its synonyms or negatives")

    @torch.inference_mode()
    def detect(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[sv.Detections]:
        """Find objects in images.

        Args:
            images: n images, of any sizes.
            prompts: the classes.

        Returns:
            One ``sv.Detections`` an image, the surest box first: ``xyxy`` in pixels inside the image, ``class_id`` an
            index into ``prompts``, ``confidence`` the uncalibrated ``p_label * p_box``, its parts in ``data``.

        Raises:
            UserError: a prompt cannot be asked for, or one image needs more memory than there is.
        """
        self.check_prompts(prompts)
        network = cast(Florence2ForConditionalGeneration, self.module)
        roles = _roles(prompts)
        questions = [_Question(image, phrase) for image in range(len(images)) for phrase in range(len(roles))]
        asked = self._prompt_ids(list(roles))
        features = self._images.run(images, lambda some: self._encode(network, some))
        answers = self._questions.run(questions, lambda some: self._ask(network, some, features, asked))
        return [
            _detections(image, answers[index * len(roles) : (index + 1) * len(roles)], roles)
            for index, image in enumerate(images)
        ]

    def _build(self) -> torch.nn.Module:
        folder = self._weights.folder
        self._processor = Florence2Processor.from_pretrained(folder, local_files_only=True)
        self._vocabulary = Vocabulary.of(self._processor.tokenizer)
        network = read_network(Florence2ForConditionalGeneration, folder)
        self._weights.check()
        # Its weights are those of the embedding of words too, which has the network's precision.
        network.lm_head = FullPrecision(copy.deepcopy(network.lm_head))
        shipped = network.generation_config
        # Only what the ids mean is taken over: real checkpoints ship beams and a ban on repeated n-grams, which loses
        # the second object of a label of three tokens.
        network.generation_config = GenerationConfig(
            **{
                name: getattr(shipped, name)
                for name in (
                    "bos_token_id",
                    "eos_token_id",
                    "pad_token_id",
                    "decoder_start_token_id",
                    "forced_bos_token_id",
                )
            },
            cache_implementation="static" if self.runtime.compile else None,
        )
        if self.runtime.compile:
            network.model.vision_tower.compile(dynamic=False)
        return cast(torch.nn.Module, network)

    def _prompt_ids(self, phrases: Sequence[str]) -> list[torch.Tensor]:
        """Token ids of the questions, each (t,), int64, without the image's."""
        tokenizer, template = self._processor.tokenizer, self._processor.task_prompts_with_input[TASK]
        texts = [
            tokenizer.bos_token + template.format(input=" ".join(phrase.split())) + tokenizer.eos_token
            for phrase in phrases
        ]
        return [torch.tensor(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]

    def _encode(self, network: Florence2ForConditionalGeneration, images: Sequence[Image]) -> list[torch.Tensor]:
        """Features of images, each (tokens, width), on the device.

        The checkpoint's own preprocessing runs there too, unless an image is so large that it would fill its memory.
        """
        small = all(image.nbytes <= LARGEST_ON_DEVICE for image in images)
        pixels = self._processor.image_processor(
            list(images), input_data_format="channels_last", device=self.device if small else "cpu", return_tensors="pt"
        )["pixel_values"]
        padded = self._filled(pixels.to(self.device, self.dtype))
        return list(network.get_image_features(padded).pooler_output[: len(images)])

    def _ask(
        self,
        network: Florence2ForConditionalGeneration,
        questions: Sequence[_Question],
        features: Sequence[torch.Tensor],
        asked: Sequence[torch.Tensor],
    ) -> list[Answer]:
        words = pad_sequence([asked[question.phrase] for question in questions], batch_first=True, padding_value=-1)
        if self.runtime.compile:
            words = torch.nn.functional.pad(words, (0, -words.shape[1] % _COMPILED_PROMPT), value=-1)
        words = self._filled(words.to(self.device))
        seen = self._filled(torch.stack([features[question.image] for question in questions]))
        mask = torch.cat([words.new_ones(seen.shape[:2]), (words >= 0).long()], dim=1)
        words = words.where(words >= 0, network.generation_config.pad_token_id)
        embedded = torch.cat([seen, network.get_input_embeddings()(words)], dim=1)
        recorder = _GreedyLogProbs()
        ids = cast(Any, network).generate(
            encoder_outputs=network.get_encoder()(inputs_embeds=embedded, attention_mask=mask),
            attention_mask=mask,
            logits_processor=LogitsProcessorList([recorder]),
            num_beams=1,
            do_sample=False,
            no_repeat_ngram_size=0,
            max_new_tokens=self._max_new_tokens,
        )
        # The first id is the decoder's start, which is not generated.
        generated, log_probs = ids[:, 1:].cpu().numpy(), torch.stack(recorder.steps, dim=1).cpu().numpy()
        return [
            read_answer(generated[row], log_probs[row, : generated.shape[1]], self._vocabulary)
            for row in range(len(questions))
        ]

    def _filled(self, batch: torch.Tensor) -> torch.Tensor:
        """For compiled code, a batch of the next power of two, filled up by repeating its first row."""
        if not self.runtime.compile:
            return batch
        wanted = 1 << (len(batch) - 1).bit_length()
        return torch.cat([batch, batch[:1].expand(wanted - len(batch), *batch.shape[1:])])


class _GreedyLogProbs(LogitsProcessor):
    """Records the log-probability of the token that greedy decoding takes at each step, and changes nothing.

    It keeps one number a step and sequence, where ``output_logits`` keeps the whole vocabulary. It is the only
    processor but that of the forced first token, which is markup, so that what it sees are the raw logits.
    """

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.steps.append(scores.amax(dim=-1) - scores.logsumexp(dim=-1))
        return scores


def _roles(prompts: Sequence[Prompt]) -> dict[str, list[tuple[int, bool]]]:
    """For each phrase, asked once, the classes that it stands for, and whether as a negative."""
    roles: dict[str, list[tuple[int, bool]]] = {}
    for index, prompt in enumerate(prompts):
        for phrases, is_negative in ((prompt.phrases, False), (prompt.negatives, True)):
            for phrase in phrases:
                roles.setdefault(phrase, []).append((index, is_negative))
    return roles


def _detections(image: Image, answers: Sequence[Answer], roles: dict[str, list[tuple[int, bool]]]) -> sv.Detections:
    """The boxes to keep of the answers to all phrases for an image."""
    found = [
        (*answer.boxes[row], answer.p_label[row], answer.p_box[row], class_id, is_negative)
        for answer, (phrase, meanings) in zip(answers, roles.items(), strict=True)
        for row, label in enumerate(answer.labels)
        if names_phrase(label, phrase)
        for class_id, is_negative in meanings
    ]
    table: NDArray[np.float64] = np.array(found, dtype=np.float64).reshape(-1, 8)
    boxes = table[:, :4] * np.tile([image.shape[1], image.shape[0]], 2)
    p_label, p_box, class_id = table[:, 4], table[:, 5], table[:, 6].astype(int)
    confidence = p_label * p_box
    # Boxes are compared by the mean of their sides: a product of four would make small differences large.
    keep = np.flatnonzero(choose_boxes(boxes, p_label * p_box**0.25, class_id, table[:, 7] > 0))
    keep = keep[np.argsort(-confidence[keep], kind="stable")]
    return sv.Detections(
        xyxy=boxes[keep].astype(np.float32),
        confidence=confidence[keep].astype(np.float32),
        class_id=class_id[keep],
        data={P_LABEL: p_label[keep].astype(np.float32), P_BOX: p_box[keep].astype(np.float32)},
    )
