"""The models that the platform knows: what each is for, where it comes from, its licence and what it costs."""

from dataclasses import dataclass
from typing import Literal

from al_dagster.core.errors import UserError

Role = Literal["detector", "segmenter", "embedder"]

MIT, APACHE = "MIT", "Apache-2.0"

DINOV2_CODE_VERSION = "1"
"""Raised by hand when the same weights would give other vectors; part of the embedder's revision and of its version."""


@dataclass(frozen=True)
class ModelCard:
    """One model of the catalogue.

    Args:
        name: what the platform calls it, such as ``dinov2-base``.
        role: what it does for the platform.
        architecture: its kind, such as ``dinov2``.
        model_types: what ``model_type`` in its ``config.json`` may be.
        repository: its repository on the model hub.
        commit: the commit of the repository that is fetched, 40 hexadecimal characters.
        licence: SPDX name of the licence of its weights.
        download_mb: megabytes (10**6 bytes) to fetch, rounded.
        gpu_mb: megabytes that its weights take on a GPU in bfloat16; what it computes takes more on top.
        use: what it is for.
        version_id: of an embedder, what the names of the versions of its vectors begin with.
        dimension: of an embedder, the length of its vectors.
    """

    name: str
    role: Role
    architecture: str
    model_types: tuple[str, ...]
    repository: str
    commit: str
    licence: str
    download_mb: int
    gpu_mb: int
    use: str
    version_id: str | None = None
    dimension: int | None = None


def _florence2(name: str, commit: str, download_mb: int, gpu_mb: int, use: str) -> ModelCard:
    repository = f"florence-community/{name.replace('florence', 'Florence')}"
    return ModelCard(name, "detector", "florence2", ("florence2",), repository, commit, MIT, download_mb, gpu_mb, use)


def _sam2(name: str, commit: str, download_mb: int, gpu_mb: int, use: str) -> ModelCard:
    # The repositories hold the video model, of which the image model is a part.
    types = ("sam2", "sam2_video")
    return ModelCard(name, "segmenter", "sam2", types, f"facebook/{name}", commit, APACHE, download_mb, gpu_mb, use)


def _dinov2(size: str, dimension: int, commit: str, download_mb: int, gpu_mb: int, use: str) -> ModelCard:
    return ModelCard(
        f"dinov2-{size}",
        "embedder",
        "dinov2",
        ("dinov2", "dinov2_with_registers"),
        f"facebook/dinov2-{size}",
        commit,
        APACHE,
        download_mb,
        gpu_mb,
        use,
        version_id=f"dinov2_{size}_v{DINOV2_CODE_VERSION}",
        dimension=dimension,
    )


_CARDS = (
    _florence2(
        "florence-2-large",
        "4271c66b88cdbc05735372ec13b2360108de5317",
        1560,
        1770,
        "finds objects by their names; the better of the two",
    ),
    _florence2(
        "florence-2-base",
        "00921df66db728a9ceb750f5eca43e5c203a2051",
        470,
        630,
        "finds objects by their names, in about a third of the memory",
    ),
    _sam2(
        "sam2.1-hiera-base-plus",
        "b7320756a13354e7530a63935656d35b2f91a290",
        320,
        160,
        "cuts objects out by box or point",
    ),
    _sam2(
        "sam2.1-hiera-tiny",
        "de431c4043854a71d8101e17995dfe596bf101a5",
        160,
        80,
        "cuts objects out with the least memory of the SAM 2.1 models",
    ),
    _sam2(
        "sam2.1-hiera-small",
        "ee5bba1d82bb8749febdf90f45e84b687142ba03",
        180,
        90,
        "cuts objects out, between tiny and base plus",
    ),
    _sam2(
        "sam2.1-hiera-large",
        "665f8e2ad61cf5f53d65644ff27c8ee525124610",
        900,
        450,
        "cuts objects out where outlines matter more than time",
    ),
    ModelCard(
        "edgetam",
        "segmenter",
        "edgetam",
        ("edgetam", "edgetam_video"),
        "yonigozlan/EdgeTAM-hf",
        "c266ce53b3fc00f0f495b583f6a116c4e57f53bb",
        APACHE,
        60,
        30,
        "cuts objects out on a small machine or a CPU",
    ),
    _dinov2(
        "base",
        768,
        "f9e44c814b77203eaa57a6bdbbd535f21ede1415",
        350,
        170,
        "tells objects apart by their looks",
    ),
    _dinov2(
        "small",
        384,
        "ed25f3a31f01632728cabb09d1542f84ab7b0056",
        90,
        45,
        "tells objects apart at a quarter of the cost of base",
    ),
    _dinov2(
        "large",
        1024,
        "47b73eefe95e8d44ec3623f8890bd894b6ea2d6c",
        1220,
        610,
        "tells objects apart more finely, at about four times the cost of base",
    ),
)

CATALOG: dict[str, ModelCard] = {card.name: card for card in _CARDS}
"""The models by name."""


def get_card(name: str) -> ModelCard:
    """The card of a model.

    Raises:
        UserError: the catalogue has no such model; lists those it has.
    """
    if name not in CATALOG:
        raise UserError(f"there is no model {name!r}; the models are {', '.join(CATALOG)}")
    return CATALOG[name]
