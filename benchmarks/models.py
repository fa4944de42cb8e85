"""What the platform costs on top of the foundation models: the bare models in a batched loop, and the labelling stages.

The models have their full-size architectures (Florence-2 large, SAM 2.1 Hiera B+, DINOv2 base) and random weights, so
that nothing need be fetched; ``--scale tiny`` has the same code and few parameters. Florence-2 writes the same fixed
number of tokens for each image in both; random weights find nothing, so every image is then given eight fixed boxes.

The bare loop uses torch and transformers alone: JPEGs are decoded ahead in threads, each model takes batches of
``--batch`` images, and nothing is kept. The chain is the platform's stages ``detect``, ``segment`` and ``embed`` as the
assets call them: it also cleans masks, writes them as PNGs, makes polygons, fingerprints and Arrow tables. Both go
over the same files in turn, ``--rounds`` times, and the ratio is of the medians. On a machine that has torch and
transformers but not what the platform needs besides, the chain is left out and the output says why.

    python benchmarks/models.py --json models.json --device cuda
"""

import argparse
import importlib.util
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from checkpoints_dinov2 import build_dinov2
from checkpoints_florence2 import TASK, build_florence2
from checkpoints_sam2 import build_sam2
from PIL import Image
from publishing import publish
from torchvision.transforms.v2 import functional as transform

BARS = {"ratio": {"cuda": 0.9, "cpu": 0.85}, "chain_images_per_min": {"cuda": 1000}}
WIDTH, HEIGHT, OBJECTS = 1024, 768, 8
PHRASE = "part"
PLATFORM_PACKAGES = ("cv2", "pyarrow", "pydantic", "structlog", "supervision")
DEFAULTS = {
    "full": {"images": 512, "batch": 32, "tokens": 48, "rounds": 3},
    "tiny": {"images": 24, "batch": 4, "tokens": 48, "rounds": 5},
}


@dataclass(frozen=True)
class Options:
    """What is measured, as on the command line."""

    device: str
    scale: str
    images: int
    batch: int
    tokens: int
    rounds: int
    compile: bool
    max_vram_gb: float | None


def boxes_of(index: int) -> np.ndarray:
    """Eight boxes of an image that do not touch, one in each cell of a grid: (8, 4) x1, y1, x2, y2 in pixels."""
    random = np.random.default_rng(index)
    size = random.uniform(60, 250, (OBJECTS, 2))
    cells = np.array([(x, y) for y in range(0, HEIGHT, HEIGHT // 2) for x in range(0, WIDTH, WIDTH // 4)])
    corner = cells + random.uniform(0, [WIDTH // 4 - 251, HEIGHT // 2 - 251], (OBJECTS, 2))
    return np.concatenate([corner, corner + size], axis=1).round(2)


def write_images(folder: Path, count: int) -> list[Path]:
    """Draw JPEGs with shapes and noise."""
    folder.mkdir()
    paths = []
    for index in range(count):
        random = np.random.default_rng(index)
        picture = random.normal(128, 12, (HEIGHT, WIDTH, 3))
        for x1, y1, x2, y2 in boxes_of(index).astype(int):
            picture[y1:y2, x1:x2] += random.uniform(-90, 90, 3)
        paths.append(folder / f"{index:05d}.jpg")
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


class BareModels:
    """The three models as transformers has them, in the precision of the device."""

    def __init__(self, folder: Path, options: Options) -> None:
        self.device = torch.device(options.device)
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.tokens = options.tokens

        def load(kind: Any, name: str) -> Any:
            model = kind.from_pretrained(folder / name, local_files_only=True, dtype=torch.float32)
            return model.to(self.dtype).to(self.device).eval()

        self.florence2 = load(transformers.Florence2ForConditionalGeneration, "florence-2-large")
        self.florence2.generation_config.forced_eos_token_id = None
        self.sam2 = load(transformers.Sam2Model, "sam2.1-hiera-base-plus")
        self.dinov2 = load(transformers.AutoModel, "dinov2-base")
        self.processor = transformers.Florence2Processor.from_pretrained(folder / "florence-2-large")
        self.sam2_processor = transformers.Sam2Processor.from_pretrained(folder / "sam2.1-hiera-base-plus")
        self.crops = transformers.AutoImageProcessor.from_pretrained(folder / "dinov2-base")

    @torch.inference_mode()
    def label(self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> int:
        """Detect, segment and embed a batch, and bring the results to the host; returns the tokens written."""
        asked = self.processor(
            images=list(images),
            text=[TASK + PHRASE] * len(images),
            padding=True,
            return_tensors="pt",
            images_kwargs={"device": self.device},
        ).to(self.device, self.dtype)
        written = self.florence2.generate(
            **asked, num_beams=1, do_sample=False, no_repeat_ngram_size=0, max_new_tokens=self.tokens
        )
        written.cpu()
        prompted = self.sam2_processor(
            images=list(images),
            input_boxes=[found.tolist() for found in boxes],
            return_tensors="pt",
            device=self.device,
        ).to(self.device)
        embedded = self.sam2.get_image_embeddings(prompted["pixel_values"].to(self.dtype))
        found = self.sam2(
            image_embeddings=embedded, input_boxes=prompted["input_boxes"].to(self.dtype), multimask_output=False
        )
        masks = self.sam2_processor.post_process_masks(found.pred_masks.float(), prompted["original_sizes"])
        for mask in masks:
            mask.cpu()
        crops = [
            torch.from_numpy(image[int(y1) : int(y2), int(x1) : int(x2)].copy()).permute(2, 0, 1)
            for image, found in zip(images, boxes, strict=True)
            for x1, y1, x2, y2 in found
        ]
        side = self.crops.crop_size["height"]
        pixels = torch.stack([transform.resize(crop.to(self.device), [side, side], antialias=True) for crop in crops])
        mean, std = (torch.tensor(values, device=self.device)[:, None, None] for values in self.statistics)
        inputs = ((pixels.float() / 255 - mean) / std).to(self.dtype)
        torch.nn.functional.normalize(self.dinov2(pixel_values=inputs).pooler_output.float(), dim=1).cpu()
        return written.shape[1] - 1

    @property
    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of the channels."""
        return self.crops.image_mean, self.crops.image_std


def decoded(paths: Sequence[Path], batch: int, threads: ThreadPoolExecutor) -> Iterator[list[np.ndarray]]:
    """The images of files in batches, each decoded while the one before is used."""

    def read(path: Path) -> np.ndarray:
        return np.asarray(Image.open(path).convert("RGB"))

    ahead = [threads.submit(read, path) for path in paths[:batch]]
    for start in range(0, len(paths), batch):
        after = [threads.submit(read, path) for path in paths[start + batch : start + 2 * batch]]
        yield [future.result() for future in ahead]
        ahead = after


def bare_loop(models: BareModels, paths: Sequence[Path], batch: int) -> set[int]:
    """Label images the plain way and keep nothing; returns the numbers of tokens written."""
    tokens, done = set(), 0
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for images in decoded(paths, batch, threads):
            tokens.add(models.label(images, [boxes_of(done + place) for place in range(len(images))]))
            done += len(images)
    return tokens


class Chain:
    """The platform's labelling stages over the same checkpoints."""

    def __init__(self, folder: Path, home: Path, paths: Sequence[Path], options: Options) -> None:
        import pyarrow as pa

        from al_dagster.core.project import parse_project
        from al_dagster.core.schemas import FRAMES
        from al_dagster.vision.dinov2 import DinoV2Embedder
        from al_dagster.vision.florence2 import Florence2Detector
        from al_dagster.vision.sam2 import Sam2Segmenter
        from al_dagster.vision.torch_runtime import Residency, Runtime
        from al_dagster.vision.weights import Weights

        def weights(name: str) -> Weights:
            return Weights(name, folder / name, "random", None, 0)

        runtime = Runtime(options.device, options.compile, Residency(options.max_vram_gb))
        florence2 = Florence2Detector(weights("florence-2-large"), runtime, max_new_tokens=options.tokens)
        self.detector = FixedBoxes(florence2)
        self.segmenter = Sam2Segmenter(weights("sam2.1-hiera-base-plus"), runtime)
        self.embedder = DinoV2Embedder(weights("dinov2-base"), runtime, "dinov2_base_v1")
        self.project = parse_project({"name": "benchmark", "classes": [PHRASE]}, "the benchmark")
        self.home = home
        self.frames = pa.Table.from_pylist(
            [
                {
                    "frame_id": f"frm_{index:012d}",
                    "source_id": f"src_{index:012d}",
                    "frame_idx": 0,
                    "timestamp_ms": 0,
                    "file_path": str(path),
                    "sha256": f"{index:064d}",
                    "width": WIDTH,
                    "height": HEIGHT,
                }
                for index, path in enumerate(paths)
            ],
            schema=FRAMES,
        )

    def load(self) -> float:
        """Load every model; returns the seconds it took."""
        start = time.perf_counter()
        for model in (self.detector, self.segmenter, self.embedder):
            model.load()
        return time.perf_counter() - start

    def run(self, count: int) -> int:
        """Label the first images with nothing kept from before; returns the objects embedded."""
        from al_dagster.core.schemas import DETECTIONS, EMBEDDINGS, MASKS
        from al_dagster.labelling.detect import detect
        from al_dagster.labelling.embed import embed
        from al_dagster.labelling.masks import RunMasks
        from al_dagster.labelling.segment import segment
        from al_dagster.media.loader import ImageLoader
        from al_dagster.registry.masks import MaskStore

        frames = self.frames.slice(0, count)
        masks = RunMasks(MaskStore(Path(tempfile.mkdtemp(dir=self.home))))
        with ImageLoader(10**9, cache_mb=1024, workers=os.cpu_count() or 1) as images:
            self.detector.start()
            found = detect(
                frames, DETECTIONS.empty_table(), detector=self.detector, project=self.project, images=images
            ).table
            cut = segment(
                frames, found, MASKS.empty_table(), segmenter=self.segmenter, masks=masks, images=images
            ).table
            return embed(
                frames, found, cut, EMBEDDINGS.empty_table(), embedder=self.embedder, masks=masks, images=images
            ).computed


class FixedBoxes:
    """Florence-2, asked like any detector, whose answers are replaced by the fixed boxes of the image."""

    least_confidence = 0.0

    def __init__(self, detector: Any) -> None:
        self._detector, self._seen = detector, 0
        self.model_id, self.revision = detector.model_id, detector.revision
        self.images_per_call = detector.images_per_call

    def start(self) -> None:
        """Begin at the first image again."""
        self._seen = 0

    def load(self) -> None:
        """Load the detector."""
        self._detector.load()

    def check_prompts(self, prompts: Sequence[Any]) -> None:
        """Have the detector check the prompts."""
        self._detector.check_prompts(prompts)

    def detect(self, images: Sequence[np.ndarray], prompts: Sequence[Any]) -> list[Any]:
        """Ask the detector, and give the fixed boxes."""
        import supervision as sv

        self._detector.detect(images, prompts)
        start, self._seen = self._seen, self._seen + len(images)
        return [
            sv.Detections(
                xyxy=boxes_of(start + place).astype(np.float32),
                confidence=np.linspace(0.9, 0.5, OBJECTS, dtype=np.float32),
                class_id=np.zeros(OBJECTS, dtype=int),
            )
            for place in range(len(images))
        ]


def timed(work: Any, *arguments: Any) -> tuple[float, Any]:
    """Seconds until the work is done, on the device too, and what it returned."""
    start = time.perf_counter()
    result = work(*arguments)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def peak_memory_mb(device: str) -> float:
    """Most memory taken on the GPU since the last call or, without one, by the process so far; MB."""
    if torch.device(device).type != "cuda":
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1)
    peak = torch.cuda.max_memory_allocated(device) / 1e6
    torch.cuda.reset_peak_memory_stats(device)
    return round(peak, 1)


def missing_packages() -> list[str]:
    """What the platform's stages need and this machine lacks."""
    return [name for name in PLATFORM_PACKAGES if importlib.util.find_spec(name) is None]


def run_benchmark(folder: Path, options: Options) -> dict[str, Any]:
    """All figures, measured in an empty folder."""
    checkpoints = folder / "models"
    build_florence2(checkpoints / "florence-2-large", options.scale)
    build_sam2(checkpoints / "sam2.1-hiera-base-plus", options.scale)
    build_dinov2(checkpoints / "dinov2-base", options.scale)
    paths = write_images(folder / "images", options.images)
    load_bare, models = timed(BareModels, checkpoints, options)
    missing = missing_packages()
    chain = None if missing else Chain(checkpoints, folder, paths, options)
    load_chain = chain.load() if chain else None

    warm = min(2 * options.batch, options.images)
    tokens = bare_loop(models, paths[:warm], options.batch)
    if chain:
        chain.run(warm)
    peak_memory_mb(options.device)
    bare, platform_, peaks = [], [], {}
    for _ in range(options.rounds):
        seconds, written = timed(bare_loop, models, paths, options.batch)
        bare.append(seconds)
        tokens |= written
        peaks["bare"] = peak_memory_mb(options.device)
        if chain:
            seconds, objects = timed(chain.run, options.images)
            platform_.append(seconds)
            peaks["chain"] = peak_memory_mb(options.device)
            if objects != OBJECTS * options.images:
                raise RuntimeError(f"the chain embedded {objects} objects, not {OBJECTS * options.images}")
    if tokens != {options.tokens}:
        raise RuntimeError(f"Florence-2 wrote {sorted(tokens)} tokens an image, not {options.tokens}: ended early")

    def per_minute(seconds: list[float]) -> float | None:
        return round(60 * options.images / statistics.median(seconds), 1) if seconds else None

    return {
        "ratio": round(statistics.median(bare) / statistics.median(platform_), 4) if chain else None,
        "bare_images_per_min": per_minute(bare),
        "chain_images_per_min": per_minute(platform_),
        "chain_left_out": f"not installed: {', '.join(missing)}" if missing else None,
        "bars": BARS,
        "options": vars(options),
        "objects_per_image": OBJECTS,
        "generated_tokens_per_image": options.tokens,
        "image_px": [WIDTH, HEIGHT],
        "seconds": {"bare": bare, "chain": platform_},
        "load_seconds": {"bare": round(load_bare, 2), "chain": load_chain and round(load_chain, 2)},
        "peak_memory_mb": peaks,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scale", choices=tuple(DEFAULTS), default="full")
    for name, about in (
        ("images", "JPEGs of 1024×768"),
        ("batch", "images the bare models take at a time"),
        ("tokens", "tokens that Florence-2 writes for each image"),
        ("rounds", "times that both go over the images"),
    ):
        parser.add_argument(f"--{name}", type=int, help=about)
    parser.add_argument("--compile", action="store_true", help="torch.compile in the chain")
    parser.add_argument("--max-vram-gb", type=float, help="memory budget of the chain")
    given = parser.parse_args(arguments)
    chosen = {name: getattr(given, name) or default for name, default in DEFAULTS[given.scale].items()}
    options = Options(given.device, given.scale, compile=given.compile, max_vram_gb=given.max_vram_gb, **chosen)
    with tempfile.TemporaryDirectory() as folder:
        result = run_benchmark(Path(folder), options)
    cuda = torch.device(options.device).type == "cuda"
    device = torch.cuda.get_device_name(options.device) if cuda else platform.machine()
    publish(result, given.json, ("torch", "transformers"), device=device, torch_threads=torch.get_num_threads())


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()
