"""Profiles: which models label a project."""

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from al_dagster.core.errors import UserError
from al_dagster.vision.protocols import Detector, Embedder, Segmenter


@dataclass(frozen=True)
class Models:
    """The models of a profile; each brings its weights into memory when it is first used.

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


def _embedded() -> Models:
    from al_dagster.vision.detector import OpenCvDetector
    from al_dagster.vision.grabcut import GrabCutSegmenter
    from al_dagster.vision.hog_color import HogColorEmbedder

    return Models(OpenCvDetector(), GrabCutSegmenter(), HogColorEmbedder())


PROFILES: dict[str, Callable[[], Models]] = {"embedded": _embedded}
"""For each profile, what makes its models."""


def build_models(profile: str) -> Models:
    """The models of a profile, nothing loaded yet.

    Raises:
        UserError: there is no such profile; lists those there are.
    """
    if profile not in PROFILES:
        raise UserError(f"there is no profile {profile!r}; the profiles are {', '.join(PROFILES)}")
    return PROFILES[profile]()
