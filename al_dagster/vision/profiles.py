"""Profiles: which models label a project, and how they are made on this machine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from al_dagster.core.errors import UserError
from al_dagster.core.project import PROPOSAL, TRAINED, ModelsConfig
from al_dagster.vision.catalog import CATALOG
from al_dagster.vision.protocols import Detector, Embedder, Prompt, Segmenter
from al_dagster.vision.weights import Manifest, Weights, find, installed, read_manifest, require_foundation_extra
from al_dagster.yolo.process import require_train_extra

if TYPE_CHECKING:
    from al_dagster.vision.torch_runtime import Runtime


@dataclass(frozen=True)
class Profile:
    """The names of the models of a profile."""

    detector: str
    segmenter: str
    embedder: str


ON_THE_CPU = "run on a machine that has one, or set AL_DEVICE=cpu, where an image takes from seconds to a minute"

PROFILES = {
    "embedded": Profile("opencv", "grabcut", "hog-color"),
    "foundation": Profile("florence-2-large", "sam2.1-hiera-base-plus", "dinov2-base"),
}


OTHERS = {"detector": ("opencv", "yolo"), "segmenter": ("grabcut",), "embedder": ("hog-color",)}
"""The models of each role that are not in the catalogue."""


def _no_trained_weights(dataset: str) -> Path:
    raise UserError(f"{TRAINED}{dataset} cannot be looked up here")


@dataclass(frozen=True)
class Environment:
    """What this machine gives to models.

    Args:
        models_dir: folder of model weights.
        scratch_dir: folder for what a process of a model needs while it runs.
        device: see ``torch_runtime.Runtime``.
        max_vram_gb: GiB of the GPU's memory to use; None for all.
        compile: whether models in torch are compiled.
        trained_weights: finds the weights of the newest model trained on a dataset.
    """

    models_dir: Path
    scratch_dir: Path
    device: str = "auto"
    max_vram_gb: float | None = None
    compile: bool = False
    trained_weights: Callable[[str], Path] = _no_trained_weights

    def runtime(self) -> "Runtime":
        """Where models in torch run, with a memory budget of its own."""
        from al_dagster.vision.residency import Residency
        from al_dagster.vision.torch_runtime import Runtime

        return Runtime(self.device, self.compile, Residency(self.max_vram_gb))


@dataclass(frozen=True)
class Models:
    """The models of a project; each brings its weights into memory when it is first used.

    It is a context manager that frees them at its end.
    """

    detector: Detector
    segmenter: Segmenter
    embedder: Embedder

    def close(self) -> None:
        """Free the weights of every model."""
        for model in (self.detector, self.segmenter, self.embedder):
            model.unload()

    def __enter__(self) -> "Models":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def build_models(profile: str, overrides: ModelsConfig, prompts: Sequence[Prompt], environment: Environment) -> Models:
    """The models of a profile with what a project puts in their place, nothing loaded yet.

    Args:
        profile: name of the profile.
        overrides: models in place of the profile's.
        prompts: what the detector will be asked for; proposals come from the segmenter where it is a SAM 2.
        environment: this machine.

    Raises:
        UserError: there is no such profile or model; its weights, packages or the GPU are missing; or it would read a
            pickle without leave. Says what to do.
    """
    if profile not in PROFILES:
        raise UserError(f"there is no profile {profile!r}; the profiles are {', '.join(PROFILES)}")
    names = PROFILES[profile]
    chosen = [getattr(overrides, role) or getattr(names, role) for role in OTHERS]
    for role, name in zip(OTHERS, chosen, strict=True):
        _check_name(name, role)
    _require_all(chosen[1:] if _only_proposals(prompts) else chosen, environment)
    builder = _Builder(overrides, environment)
    segmenter = builder.segmenter(chosen[1])
    return Models(builder.detector(chosen[0], prompts, segmenter), segmenter, builder.embedder(chosen[2]))


def build_embedding_models(version_id: str, environment: Environment) -> Models | None:
    """The models that make vectors of an embedding version, with a segmenter; None where this machine has none.

    Another release of OpenCV, other weights or another version of the code make vectors of another version.
    The segmenter is the foundation profile's where that is installed, else the embedded profile's. An embedder with a
    manifest that cannot be read counts as not here.

    Raises:
        UserError: the embedder is installed, and damaged, or the segmenter is, or the GPU is missing.
    """
    from al_dagster.vision.hog_color import HogColorEmbedder

    if version_id == HogColorEmbedder().version_id:
        return build_models("embedded", ModelsConfig(), [Prompt(PROPOSAL)], environment)
    here = installed(environment.models_dir)
    profile = "foundation" if PROFILES["foundation"].segmenter in here else "embedded"
    for name in here:
        if CATALOG[name].role == "embedder" and _recorded_version(environment.models_dir / name) == version_id:
            return build_models(profile, ModelsConfig(embedder=name), [Prompt(PROPOSAL)], environment)
    return None


def _recorded_version(folder: Path) -> str | None:
    """The embedding version of an installed embedder, whole or damaged; None where its manifest cannot be read."""
    try:
        return embedding_version(read_manifest(folder))
    except UserError:
        return None


def embedding_version(weights: Weights | Manifest) -> str:
    """The embedding version of an embedder's weights: another for each content of them and version of the code."""
    return f"{CATALOG[weights.name].version_id}_{weights.revision[:6]}"


class _Builder:
    """Makes the models of one project, which share one runtime."""

    def __init__(self, overrides: ModelsConfig, environment: Environment) -> None:
        self._overrides, self._environment = overrides, environment
        self._shared: Runtime | None = None

    def detector(self, name: str, prompts: Sequence[Prompt], segmenter: Segmenter) -> Detector:
        if name == "opencv":
            from al_dagster.vision.detector import OpenCvDetector

            return OpenCvDetector()
        if _only_proposals(prompts):
            return self._proposer(segmenter)
        named = self._yolo() if name == "yolo" else self._florence2(name)
        if not any(prompt.label == PROPOSAL for prompt in prompts):
            return named
        from al_dagster.vision.routing import RoutedDetector

        return RoutedDetector(named, self._proposer(segmenter))

    def segmenter(self, name: str) -> Segmenter:
        if name == "grabcut":
            from al_dagster.vision.grabcut import GrabCutSegmenter

            return GrabCutSegmenter()
        weights = self._weights(name)
        if self._overrides.segmenter_code == "meta":
            from al_dagster.vision.sam2_meta import MetaSam2Segmenter

            return MetaSam2Segmenter(weights, self._foundation_runtime())
        from al_dagster.vision.sam2 import Sam2Segmenter

        return Sam2Segmenter(weights, self._foundation_runtime())

    def embedder(self, name: str) -> Embedder:
        if name == "hog-color":
            from al_dagster.vision.hog_color import HogColorEmbedder

            return HogColorEmbedder()
        weights = self._weights(name)
        from al_dagster.vision.dinov2 import DinoV2Embedder

        return DinoV2Embedder(weights, self._foundation_runtime(), embedding_version(weights))

    def _proposer(self, segmenter: Segmenter) -> Detector:
        from al_dagster.vision.detector import OpenCvDetector
        from al_dagster.vision.grabcut import GrabCutSegmenter

        if isinstance(segmenter, GrabCutSegmenter):
            return OpenCvDetector()
        from al_dagster.vision.sam2 import Sam2Segmenter
        from al_dagster.vision.sam2_proposals import Sam2Proposer

        assert isinstance(segmenter, Sam2Segmenter)
        return Sam2Proposer(segmenter)

    def _florence2(self, name: str) -> Detector:
        weights = self._weights(name)
        from al_dagster.vision.florence2 import Florence2Detector

        return Florence2Detector(weights, self._foundation_runtime())

    def _yolo(self) -> Detector:
        require_train_extra()
        from al_dagster.vision.yolo import YoloDetector

        given = self._overrides.weights
        if given is None:
            raise UserError("the detector yolo needs weights: a file, or model:<dataset> for a model trained here")
        scratch, runtime = self._environment.scratch_dir, self._runtime()
        if given.startswith(TRAINED):
            dataset = given.removeprefix(TRAINED)
            file = self._environment.trained_weights(dataset)
            model_id = f"yolo-{dataset.replace('@', '-')}"  # in ids of models, what follows @ is the revision
            return YoloDetector(file, runtime, scratch, model_id=model_id, allow_pickle=True)
        file = Path(given)
        return YoloDetector(
            file,
            runtime,
            scratch,
            model_id=f"yolo-{file.stem}",
            allow_pickle=self._overrides.allow_pickle,
        )

    def _weights(self, name: str) -> Weights:
        require_foundation_extra()
        return find(name, self._environment.models_dir)

    def _foundation_runtime(self) -> "Runtime":
        """That of the models from the catalogue."""
        import transformers

        # Bars of weights that load on the CPU in a second would be mixed into those of the command.
        transformers.utils.logging.disable_progress_bar()
        _require_gpu(self._runtime())
        return self._runtime()

    def _runtime(self) -> "Runtime":
        """Where the models run, with the memory budget that they share."""
        if self._shared is None:
            self._shared = self._environment.runtime()
        return self._shared


def _require_all(names: Sequence[str], environment: Environment) -> None:
    """Say at once what is missing of several models."""
    missing = [name for name in names if name in CATALOG and not (environment.models_dir / name).is_dir()]
    if len(missing) < 2:
        return
    require_foundation_extra()
    size = sum(CATALOG[name].download_mb for name in missing) / 1000
    also = "" if _has_device(environment.runtime()) else f"; they also need a GPU, and torch sees none: {ON_THE_CPU}"
    raise UserError(
        f"models {', '.join(missing[:-1])} and {missing[-1]} are not in {environment.models_dir}; "
        f"`al models fetch {' '.join(missing)}` gets them (about {size:.1f} GB){also}"
    )


def _has_device(runtime: "Runtime") -> bool:
    """Whether there is a GPU, or the user has named the CPU."""
    return runtime.torch_device().type != "cpu" or runtime.device != "auto"


def _only_proposals(prompts: Sequence[Prompt]) -> bool:
    """Whether nothing is asked for by name, so that no detector of named classes is needed."""
    return bool(prompts) and all(prompt.label == PROPOSAL for prompt in prompts)


def _check_name(name: str, role: str) -> None:
    """A model must be one of its role."""
    known = [*OTHERS[role], *(card.name for card in CATALOG.values() if card.role == role)]
    if name not in known:
        raise UserError(f"there is no {role} {name!r}; the {role}s are {', '.join(known)}")


def _require_gpu(runtime: "Runtime") -> None:
    if not _has_device(runtime):
        raise UserError(f"these models need a GPU, and torch sees none: {ON_THE_CPU}")
