"""The folder of model weights: what is in it, found fast, and checked to the last byte.

A model is a folder under ``AL_MODELS`` with its configuration, its weights as safetensors and a manifest that records
the SHA-256 of every file. ``vision.fetch`` puts it there whole; what it puts there is never changed, only replaced.
"""

import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ValidationError

from al_dagster.core.errors import UserError
from al_dagster.core.hashing import file_sha256
from al_dagster.core.progress import report
from al_dagster.core.settings import load_settings
from al_dagster.vision.catalog import CATALOG, get_card

MANIFEST = "al_manifest.json"
REVISION_LENGTH = 12
MB = 10**6
EXTRA = ("huggingface_hub", "safetensors", "timm", "torch", "torchvision", "transformers")


@dataclass(frozen=True)
class Weights:
    """The files of an installed model.

    Args:
        name: the model's name in the catalogue.
        folder: where its files are.
        revision: 12 hexadecimal characters of the content of all its files; part of every fingerprint.
        commit: the commit of its repository, or None where the files came from a folder.
        size_bytes: of all its files.
    """

    name: str
    folder: Path
    revision: str
    commit: str | None
    size_bytes: int

    def check(self) -> None:
        """Check that the folder holds this model still; called when its files have been read.

        Raises:
            UserError: the model was replaced since it was found.
        """
        if read_manifest(self.folder).revision != self.revision:
            raise UserError(f"model {self.name} was replaced during this run; run it again")


class FileRecord(BaseModel):
    """What a file must be: its SHA-256 in hexadecimal and its size in bytes."""

    sha256: str
    size: int


class Manifest(BaseModel):
    """What is recorded of a model when it is put into the folder.

    Attributes:
        name: the model's name in the catalogue.
        repository: its repository on the model hub; None where the files came from a folder.
        commit: the commit of that repository; None where the files came from a folder.
        origin: the hub's address, or the folder that the files were taken from.
        fetched_at: when.
        files: every file but the manifest, by name.
    """

    name: str
    repository: str | None
    commit: str | None
    origin: str
    fetched_at: datetime
    files: dict[str, FileRecord]

    @property
    def revision(self) -> str:
        """12 hexadecimal characters that change with the name or content of any file."""
        lines = sorted(f"{name}\0{record.sha256}\n" for name, record in self.files.items())
        return hashlib.sha256("".join(lines).encode()).hexdigest()[:REVISION_LENGTH]

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(record.size for record in self.files.values())


def find(name: str, models_dir: Path | None = None) -> Weights:
    """The files of a model, which must be there with the sizes that are recorded; their content is not read.

    Args:
        name: a model of the catalogue.
        models_dir: the folder of models; by default that of the settings.

    Raises:
        UserError: there is no such model, it is not installed, or a file of it is missing or has another size.
    """
    card, folder = get_card(name), _models_dir(models_dir) / name
    if not folder.is_dir():
        raise UserError(
            f"model {name} is not in {folder.parent}; "
            f"`al models fetch {name}` gets it (about {card.download_mb} MB, {card.licence})"
        )
    manifest = read_manifest(folder)
    for file, record in sorted(manifest.files.items()):
        wrong = _misfit(folder / file, record)
        if wrong:
            raise UserError(f"model {name} in {folder} is damaged: {file} {wrong}; {_repair(name, manifest)}")
    return Weights(name, folder, manifest.revision, manifest.commit, manifest.size_bytes)


def verify(name: str, models_dir: Path | None = None) -> list[str]:
    """Read every file of an installed model and compare it with what is recorded.

    Args:
        name: a model of the catalogue.
        models_dir: the folder of models; by default that of the settings.

    Returns:
        What differs, is missing or is there in addition, a line each; nothing if all is well.

    Raises:
        UserError: there is no such model, it is not installed, or its manifest cannot be read.
    """
    get_card(name)
    folder = _models_dir(models_dir) / name
    if not folder.is_dir():
        find(name, models_dir)
    return differences(folder, read_manifest(folder))


def differences(folder: Path, manifest: Manifest) -> list[str]:
    """What of a folder is not as its manifest says, a line each; reads every file."""
    found = []
    hashed = hash_reporter(f"{manifest.name}, MB verified", manifest.size_bytes)
    for file, record in sorted(manifest.files.items()):
        wrong = _misfit(folder / file, record) or _other_content(folder / file, record, hashed)
        if wrong:
            found.append(f"{file} {wrong}")
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    found += [f"{file} was added" for file in sorted(there - {*manifest.files, MANIFEST})]
    return found


def installed(models_dir: Path | None = None) -> list[str]:
    """The names of the models of the catalogue that have a folder, whole or damaged."""
    root = _models_dir(models_dir)
    return [name for name in CATALOG if (root / name).is_dir()]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an installed model.

    Raises:
        UserError: there is none, it is not one, or it may not be read.
    """
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        wrong = f"{folder} has no {MANIFEST}, so it was not put there by `al models fetch`"
    except OSError as error:
        raise UserError(
            f"{folder / MANIFEST} cannot be read: {error.strerror}; give its reader leave, or set AL_MODELS to another "
            "folder"
        ) from None
    except ValidationError:
        wrong = f"{folder / MANIFEST} cannot be read"
    raise UserError(f"{wrong}; move it elsewhere, and `al models fetch {folder.name} --from FOLDER` takes a copy of it")


def record(
    folder: Path, name: str, *, origin: str, repository: str | None = None, commit: str | None = None
) -> Weights:
    """Write the manifest of a folder, which makes it a model; reads every file.

    Args:
        folder: the files of the model, none of them in a folder of its own.
        name: of the model.
        origin: see ``Manifest``, as for the others.
        repository: where the files came from the hub.
        commit: of that repository.
    """
    files = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    hashed = hash_reporter(f"{name}, MB recorded", sum(path.stat().st_size for path in files))
    manifest = Manifest(
        name=name,
        repository=repository,
        commit=commit,
        origin=origin,
        fetched_at=datetime.now(UTC),
        files={path.name: FileRecord(sha256=file_sha256(path, hashed), size=path.stat().st_size) for path in files},
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
    return Weights(name, folder, manifest.revision, commit, manifest.size_bytes)


def require_foundation_extra() -> None:
    """Check that the libraries of the foundation models are installed.

    Raises:
        UserError: they are not.
    """
    if any(importlib.util.find_spec(name) is None for name in EXTRA):
        raise UserError("foundation models need the 'foundation' extra: pip install 'al_dagster[foundation]'")


def hash_reporter(step: str, total_bytes: int) -> Callable[[int], None]:
    """Adds up bytes and reports them as megabytes of a step."""
    done = 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        report(step, done // MB, total_bytes // MB)

    return add


def _models_dir(given: Path | None) -> Path:
    return (given or load_settings().models_dir).absolute()


def _misfit(path: Path, record: FileRecord) -> str | None:
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    return None if size == record.size else f"has {size} bytes instead of {record.size}"


def _other_content(path: Path, record: FileRecord, hashed: Callable[[int], None]) -> str | None:
    try:
        return None if file_sha256(path, hashed) == record.sha256 else "has other content than recorded"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _repair(name: str, manifest: Manifest) -> str:
    """What puts a damaged model right."""
    again = f"`al models fetch {name}"
    if manifest.commit is None:
        return f"{again} --from FOLDER` takes it again; it came from {manifest.origin}"
    return f"{again}` fetches it again"
