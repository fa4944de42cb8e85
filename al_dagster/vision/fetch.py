"""Putting models into the folder of weights: from the hub or from a folder, whole or not at all.

A model is gathered in a staging folder beside its place (``.NAME@WHAT.part``), checked, recorded in a manifest and
renamed into place. A process that is killed leaves a staging folder, which the next one goes on with or clears away.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from al_dagster.core.errors import UserError
from al_dagster.core.files import move_whole
from al_dagster.core.settings import load_settings
from al_dagster.vision.catalog import ModelCard, get_card
from al_dagster.vision.hub import download, list_repository
from al_dagster.vision.pickles import PICKLES, choose_pickles, convert_pickles
from al_dagster.vision.room import check_room, room_told
from al_dagster.vision.weights import (
    MANIFEST,
    Manifest,
    Weights,
    differences,
    find,
    hash_reporter,
    read_manifest,
    record,
)

CONFIG = "config.json"
SAFETENSORS = ".safetensors"
KEPT = (".json", ".txt", SAFETENSORS)
"""Endings of the files that are taken: configuration, processor and tokenizer, and weights."""

logger = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Fetched:
    """What a fetch came to.

    Args:
        weights: the installed model.
        new: whether it was put there now; otherwise it was there already, whole.
    """

    weights: Weights
    new: bool


def fetch(
    name: str,
    *,
    models_dir: Path | None = None,
    revision: str | None = None,
    source: Path | None = None,
    allow_pickle: bool = False,
) -> Fetched:
    """Put a model into the folder of weights; one that is there whole, of the same commit, is left as it is.

    Args:
        name: a model of the catalogue.
        models_dir: the folder of models; by default that of the settings.
        revision: commit, branch or tag of the model's repository; by default the commit that is installed, or else
            the one of the catalogue. A branch is resolved once: its commit is recorded and kept to.
        source: take the files from this folder instead of the hub.
        allow_pickle: where there are no safetensors, load pickled tensors, with ``weights_only``, and keep them as
            safetensors.

    Raises:
        UserError: it cannot be fetched; says why and what to do.
    """
    card, root = get_card(name), (models_dir or load_settings().models_dir).absolute()
    if source is not None and revision is not None:
        raise UserError("give either --from or --revision; a folder has no revisions")
    if source is None and (weights := _whole(card, root, revision)) is not None:
        return Fetched(weights, new=False)
    with _alone(root, name), room_told():
        _put_back(root, name)
        if source is not None:
            return _from_folder(card, root, source.absolute(), allow_pickle)
        return _from_hub(card, root, revision, allow_pickle)


def _from_hub(card: ModelCard, root: Path, revision: str | None, allow_pickle: bool) -> Fetched:
    weights = _whole(card, root, revision)
    if weights is not None:
        return Fetched(weights, new=False)
    standing = _standing(root / card.name)
    if revision is None and standing is not None and standing.commit is None:
        raise UserError(
            f"model {card.name} in {root} is damaged and came from {standing.origin}; take it from there again by "
            f"`al models fetch {card.name} --from {standing.origin}`, or from the hub by --revision {card.commit}"
        )
    wanted = revision or (standing and standing.commit) or card.commit
    listing = list_repository(card.repository, wanted)
    weights = _whole(card, root, listing.commit)
    if weights is not None:
        return Fetched(weights, new=False)
    taken = _choose([file.name for file in listing.files], card.repository, allow_pickle)
    files = [file for file in listing.files if file.name in taken]
    stage = _stage(root, card.name, listing.commit[:12])
    total = sum(file.size for file in files)
    check_room(root, sum(file.size for file in files if not (stage / file.name).is_file()))
    downloaded = hash_reporter(f"{card.name}, MB", total)
    for file in files:
        download(listing, file, stage, downloaded)
    _clear_leavings(stage)
    _finish(card, stage, allow_pickle, repository=card.repository, commit=listing.commit, origin=listing.endpoint)
    return _place(card, root, stage)


def _from_folder(card: ModelCard, root: Path, source: Path, allow_pickle: bool) -> Fetched:
    if not source.is_dir():
        raise UserError(f"--from {source}: there is no such folder")
    repository = commit = None
    if (source / MANIFEST).is_file():
        manifest = read_manifest(source)
        if manifest.name != card.name:
            raise UserError(
                f"--from {source} holds {manifest.name}, not {card.name}; "
                f"`al models fetch {manifest.name} --from {source}` takes it"
            )
        wrong = differences(source, manifest)
        if wrong:
            raise UserError(f"--from {source}: {wrong[0]}, so it is no whole copy of {manifest.name}; copy it again")
        repository, commit = manifest.repository, manifest.commit
    names = [path.name for path in source.iterdir() if path.is_file() and path.name != MANIFEST]
    taken = sorted(_choose(names, str(source), allow_pickle))
    here = _whole(card, root, None)
    stage = _stage(root, card.name, "folder")
    for name in taken:
        shutil.copyfile(source / name, stage / name)
    staged = _finish(card, stage, allow_pickle, repository=repository, commit=commit, origin=str(source))
    if here is not None and (here.revision, here.commit) == (staged.revision, staged.commit):
        shutil.rmtree(stage)
        return Fetched(here, new=False)
    return _place(card, root, stage)


def _choose(names: Iterable[str], where: str, allow_pickle: bool) -> set[str]:
    """The files that are taken: those at the top with a known ending, and pickles only where there is nothing else."""
    top = {name for name in names if "/" not in name and not name.startswith(".")}
    taken = {name for name in top if name.endswith(KEPT)}
    if CONFIG not in taken:
        raise UserError(f"{where} has no {CONFIG}, so it is no model in the format of transformers")
    if any(name.endswith(SAFETENSORS) for name in taken):
        return taken
    pickles = {name for name in top if name.endswith(PICKLES)}
    if not pickles:
        raise UserError(f"{where} holds no weights: no {SAFETENSORS} file")
    if not allow_pickle:
        raise UserError(
            f"{where} holds its weights only as a pickle ({', '.join(sorted(pickles))}), which can run code when it is "
            "loaded; --allow-pickle loads its tensors alone and keeps them as safetensors"
        )
    return taken | set(choose_pickles(pickles, where))


def _finish(
    card: ModelCard, stage: Path, allow_pickle: bool, *, repository: str | None, commit: str | None, origin: str
) -> Weights:
    """Make a staging folder a model: its pickles converted, its kind checked, every file recorded."""
    if allow_pickle:
        convert_pickles(stage)
    _check_kind(card, stage, origin)
    return record(stage, card.name, origin=origin, repository=repository, commit=commit)


def _check_kind(card: ModelCard, stage: Path, origin: str) -> None:
    try:
        kind = json.loads((stage / CONFIG).read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError):
        shutil.rmtree(stage)
        raise UserError(f"{CONFIG} from {origin} is no JSON object") from None
    if kind not in card.model_types:
        shutil.rmtree(stage)
        raise UserError(
            f"{CONFIG} from {origin} is of a model of type {kind!r}, but {card.name} is {' or '.join(card.model_types)}"
        )


def _standing(folder: Path) -> Manifest | None:
    """What is installed, if anything; a folder of others is not touched."""
    return read_manifest(folder) if folder.is_dir() else None


def _whole(card: ModelCard, root: Path, commit: str | None) -> Weights | None:
    """The installed model, where it is of this commit, or of any for None, and every file is as recorded."""
    standing = _standing(root / card.name)
    if standing is None or commit not in (None, standing.commit) or differences(root / card.name, standing):
        return None
    return find(card.name, root)


def _stage(root: Path, name: str, what: str) -> Path:
    """The staging folder for what is fetched; those of other commits, and half a local copy, are cleared away."""
    stage = root / f".{name}@{what}.part"
    for other in root.glob(f".{name}@*.part"):
        if other != stage or what == "folder":
            shutil.rmtree(other)
    stage.mkdir(exist_ok=True)
    _clear_leavings(stage)
    return stage


def _clear_leavings(stage: Path) -> None:
    """Remove what the hub's client and safetensors keep beside a file while they write it."""
    for path in stage.glob(".*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _place(card: ModelCard, root: Path, stage: Path) -> Fetched:
    place, old = root / card.name, _old(root, card.name)
    if place.exists():
        place.rename(old)
    move_whole(stage, place)
    shutil.rmtree(old, ignore_errors=True)
    weights = find(card.name, root)
    logger.info("model installed", model=card.name, revision=weights.revision, commit=weights.commit)
    return Fetched(weights, new=True)


def _put_back(root: Path, name: str) -> None:
    """Undo a replacement that was killed between its two renames; clear away one that was killed after them."""
    old = _old(root, name)
    if old.exists() and not (root / name).exists():
        old.rename(root / name)
    shutil.rmtree(old, ignore_errors=True)


def _old(root: Path, name: str) -> Path:
    return root / f".{name}.old"


@contextlib.contextmanager
def _alone(root: Path, name: str) -> Iterator[None]:
    """Let one process at a time change a model."""
    from filelock import FileLock, Timeout

    try:
        root.mkdir(parents=True, exist_ok=True)
        if not os.access(root, os.W_OK):
            raise PermissionError(None, "cannot be written to")
        lock = FileLock(root / f".{name}.lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise UserError(f"another process is fetching {name} into {root}; wait until it has ended") from None
    except OSError as error:
        raise UserError(
            f"{root}: {error.strerror or error}; set AL_MODELS to a folder that can be written to"
        ) from None
    try:
        yield
    finally:
        lock.release()
