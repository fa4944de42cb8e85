"""What the platform costs on top of the foundation models: the bare models in a batched loop, and the labelling stages.

The models have their full-size architectures (Florence-2 large, SAM 2.1 Hiera B+, DINOv2 base) and random weights, so
that nothing need be fetched; ``--scale tiny`` has the same code and few parameters. Florence-2 writes the same fixed
number of tokens for each image in both (in the bare loop it is checked); random weights find nothing, so every image
is then given eight fixed boxes.

The bare loop uses torch and transformers alone: JPEGs are decoded ahead in threads, the models take batches of images,
of the sizes given by ``--batch`` the fastest, and nothing is kept. The chain is the platform's stages ``detect``,
``segment`` and ``embed`` as the assets call them: it also cleans masks, writes them as PNGs, makes polygons,
fingerprints and Arrow tables. Both go over the same files in turn, ``--rounds`` times, and the ratio is of the medians;
the bare models leave a GPU to the chain meanwhile. On a machine that has torch and transformers but not what the
platform needs besides, the chain is left out and the output says why.

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
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from checkpoints_dinov2 import build_dinov2
from checkpoints_florence2 import TASK, build_florence2
from checkpoints_sam2 import build_sam2
from objects_on_noise import HEIGHT, OBJECTS, WIDTH, boxes_of, write_images
from PIL import Image
from publishing import publish
from torchvision.transforms.v2 import functional as transform

BARS = {"ratio": {"cuda": 0.9, "cpu": 0.85}, "chain_images_per_min": {"cuda": 1000}}
PHRASE = "part"
PLATFORM_PACKAGES = ("cv2", "pyarrow", "pydantic", "structlog", "supervision")
DEFAULTS = {
    "full": {"images": 256, "batch": [16, 32, 64], "tokens": 48, "rounds": 3},
    "tiny": {"images": 24, "batch": [4], "tokens": 48, "rounds": 5},
}


@dataclass(frozen=True)
class Options:
    """What is measured, as on the command line."""

    device: str
    scale: str
    images: int
    batch: list[int]
    tokens: int
    rounds: int
    compile: bool
    max_vram_gb: float | None


def numbered(name: str) -> torch.device:
    """The device of a name, a GPU with its number, without which torch does not tell its memory."""
    device = torch.device(name)
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


class BareModels:
    """The three models as transformers has them, in the precision of the device."""

    def __init__(self, folder: Path, options: Options) -> None:
        self.device = numbered(options.device)
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

    def move(self, device: torch.device) -> None:
        """Bring the models to a device, or away from it."""
        for model in (self.florence2, self.sam2, self.dinov2):
            model.to(device)

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


def timed(work: Any, *arguments: Any) -> tuple[float, Any]:
    """Seconds until the work is done, on the device too, and what it returned."""
    start = time.perf_counter()
    result = work(*arguments)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


@contextmanager
def alone(models: BareModels) -> Iterator[None]:
    """The bare models on their device, which has no budget meanwhile; afterwards they are off it."""
    if models.device.type != "cuda":
        yield
        return
    share = torch.cuda.get_per_process_memory_fraction(models.device)
    torch.cuda.set_per_process_memory_fraction(1.0, models.device)
    models.move(models.device)
    try:
        yield
    finally:
        models.move(torch.device("cpu"))
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(share, models.device)


@contextmanager
def peak_memory(device: torch.device, peaks: dict[str, float], name: str) -> Iterator[None]:
    """Note the most memory taken on the GPU, beyond what others hold there, or by the process so far; MB."""
    if device.type != "cuda":
        yield
        peaks[name] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1)
        return
    others = torch.cuda.memory_allocated(device) if name == "bare" else 0
    torch.cuda.reset_peak_memory_stats(device)
    yield
    peaks[name] = round((torch.cuda.max_memory_allocated(device) - others) / 1e6, 1)


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
    warm = min(2 * max(options.batch), options.images)
    with alone(models):
        for size in options.batch:
            bare_loop(models, paths[:size], size)
        taken = {size: timed(bare_loop, models, paths[:warm], size) for size in options.batch}
    batch = min(taken, key=lambda size: taken[size][0])
    tokens = taken[batch][1]
    missing = missing_packages()
    chain, load_chain = None, None
    if not missing:
        from chain import Chain

        from al_dagster.vision.residency import Residency
        from al_dagster.vision.torch_runtime import Runtime

        runtime = Runtime(options.device, options.compile, Residency(options.max_vram_gb))
        chain = Chain(checkpoints, folder, paths, phrase=PHRASE, tokens=options.tokens, runtime=runtime)
        load_chain = chain.load()
        chain.run(warm)
    bare, platform_, peaks = [], [], {}
    for _ in range(options.rounds):
        with peak_memory(models.device, peaks, "bare"), alone(models):
            seconds, written = timed(bare_loop, models, paths, batch)
        bare.append(seconds)
        tokens |= written
        if chain:
            with peak_memory(models.device, peaks, "chain"):
                seconds, objects = timed(chain.run, options.images)
            platform_.append(seconds)
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
        "bare_batch": batch,
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
        ("tokens", "tokens that Florence-2 writes for each image"),
        ("rounds", "times that both go over the images"),
    ):
        parser.add_argument(f"--{name}", type=int, help=about)
    parser.add_argument("--batch", type=int, nargs="+", help="images that the bare models may take at a time")
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
