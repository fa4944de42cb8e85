"""``al doctor``."""

import os
import random
import shlex
import shutil
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from al_dagster.cli.output import Json, console, print_json, progress_bars, say
from al_dagster.core.disk import disk_full, is_disk_full
from al_dagster.core.errors import UserError
from al_dagster.core.ids import batch_project

if TYPE_CHECKING:
    from al_dagster.core.settings import Settings

T = TypeVar("T")

SMALLEST_FREE_GB = 2.0
MASKS_LOOKED_AT = 1000
TABLES_LOOKED_AT = 200
MODELS_LOOKED_AT = 20
BYTES_READ = 2 * 10**9
"""Of tables, of exports and of models each, at most; where there is more, some are chosen at random."""
PACKAGES = ("dagster", "mlflow", "chromadb", "duckdb", "sqlalchemy", "opencv-python-headless", "supervision", "numpy")


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(as_json: Json = False) -> None:
    """Look at everything the platform needs, and say what is wrong and what to do about it.

    Exit status 1 if something is wrong.
    """
    from al_dagster.core.settings import load_settings

    settings = load_settings()
    found = []
    unknown: set[str] = set()
    for name, check in CHECKS.items():
        if name in unknown:
            continue
        with progress_bars(not as_json, title=f"looking at {name}"):
            ok, says = _judged(check, settings)
        found.append({"what": name, "ok": ok, "says": says})
        if name == "home" and not ok:
            break
        if name == "registry" and not ok:
            unknown = OF_REGISTRY
    if as_json:
        print_json(found)
    else:
        for row in found:
            console.print("[green]ok[/green]    " if row["ok"] else "[red]wrong[/red] ", end="")
            say(f"{row['what']}: {row['says']}")
    if not all(row["ok"] for row in found):
        raise typer.Exit(1)


def _judged(check: "Callable[[Settings], str]", settings: "Settings") -> tuple[bool, str]:
    try:
        return True, check(settings)
    except UserError as error:
        return False, str(error)
    except Exception as error:
        # Whatever is wrong with a part, the others are still looked at.
        if is_disk_full(error, settings.home):
            return False, str(disk_full(settings.home.absolute()))
        said = (str(error).strip() or "no message").splitlines()[0]
        return False, f"cannot be used: {type(error).__name__}: {said}"


def _packages(settings: "Settings") -> str:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            raise UserError(f"package {name} is missing; install al_dagster again") from None
    return ", ".join(found)


def _home(settings: "Settings") -> str:
    home = settings.home.absolute()
    probe = home / f".doctor-{os.getpid()}"
    try:
        home.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise UserError(f"{home} cannot be written to ({error.strerror}); set AL_HOME to a folder that can") from None
    free = shutil.disk_usage(home).free / 1e9
    if free < SMALLEST_FREE_GB:
        raise UserError(f"{home} has {free:.1f} GB free; make room, or set AL_HOME to a larger disk")
    return f"{home}, {free:.0f} GB free"


def _registry(settings: "Settings") -> str:
    from al_dagster.registry.database import check_integrity, open_registry
    from al_dagster.registry.objects import count_objects

    with open_registry(settings.database_url) as registry:
        size = _size(Path(registry.engine.url.database or ""))
        if size <= BYTES_READ:
            check_integrity(registry)
        unread = "" if size <= BYTES_READ else f"; not read as a whole, for it has {size / 1e9:.1f} GB"
        return f"{settings.database_url}, {count_objects(registry)} objects{unread}"


def _vector_store(settings: "Settings") -> str:
    from al_dagster.registry.database import open_registry
    from al_dagster.registry.embedding_versions import list_versions
    from al_dagster.registry.objects import count_objects
    from al_dagster.registry.outbox import lost_index, outbox_counts
    from al_dagster.vectors.chroma import ChromaStore, has_index

    with open_registry(settings.database_url) as registry:
        if lost := lost_index(registry, settings.chroma_dir):
            raise UserError(lost)
        counts = []
        outbox = outbox_counts(registry)
        for known in list_versions(registry) if has_index(settings.chroma_dir) else ():
            with ChromaStore(settings.chroma_dir, known.version_id, known.dimension) as store:
                held = store.count()
            expected = count_objects(registry, embedding_version=known.version_id, is_stale=False)
            if held != expected and not outbox["pending"] and not outbox["failed"]:
                raise UserError(
                    f"{settings.chroma_dir} holds {held} vectors of {known.version_id}, and {expected} objects have "
                    "one; `al sync --reconcile` repairs it"
                )
            counts.append(f"{held} vectors of {known.version_id}")
    if outbox["failed"]:
        raise UserError(f"{outbox['failed']} vectors were refused; `al sync --reconcile` tries them again")
    if outbox["pending"]:
        counts.append(f"{outbox['pending']} changes wait for `al sync`")
    return ", ".join(counts) or "empty"


def _mask_store(settings: "Settings") -> str:
    from al_dagster.registry.database import open_registry
    from al_dagster.registry.masks import MaskStore
    from al_dagster.registry.objects import some_masks

    with open_registry(settings.database_url) as registry:
        masks, total = some_masks(registry, MASKS_LOOKED_AT)
    store = MaskStore(settings.masks_dir)
    wrong = [(project, path) for project, path in masks if not store.is_intact(path)]
    if wrong:
        project, path = wrong[0]
        raise UserError(
            f"{_share(wrong, masks, total, 'masks')} are missing or damaged in {settings.masks_dir}, such as {path}; "
            f"`al ingest --project {shlex.quote(project)} --again` makes them anew"
        )
    return f"{settings.masks_dir}, {_all_good(masks, total, 'masks')}"


def _lake(settings: "Settings") -> str:
    from al_dagster.core.lake import Lake
    from al_dagster.core.schemas import LAKE_SCHEMAS
    from al_dagster.registry.batches import list_batches, unfinished_batches
    from al_dagster.registry.database import open_registry
    from al_dagster.registry.datasets import list_datasets

    lake = Lake(settings.lake)
    with open_registry(settings.database_url) as registry:
        unfinished = set(unfinished_batches(registry))
        batches = [key for key in list_batches(registry) if key not in unfinished]
        datasets = {record.dataset_id: record for record in list_datasets(registry)}
    stored = {asset: set(lake.partitions(asset)) for asset in LAKE_SCHEMAS}
    for asset in LAKE_SCHEMAS:
        for key in () if asset == "dataset" else batches:
            if key not in stored[asset]:
                raise UserError(
                    f"{lake.path(asset, key)} is missing; "
                    f"`al ingest --project {shlex.quote(batch_project(key))} --again` makes it anew"
                )
    # Before versions had a table each, the newest one was kept under the dataset's name.
    for name, record in datasets.items():
        if not {name, record.name} & stored["dataset"]:
            raise UserError(
                f"the rows of {record.reference} are missing in {settings.lake}; "
                f"if its labels are as they were, `al dataset build {record.name}` writes them again"
            )
    tables = [(asset, key) for asset in LAKE_SCHEMAS for key in sorted(stored[asset])]
    looked_at = _some(tables, TABLES_LOOKED_AT, lambda table: lake.size(*table))
    wrong = []
    for asset, key in looked_at:
        try:
            lake.read(asset, key)
        except UserError as error:
            known = datasets.get(key)
            wrong.append(f"{error}" if known is None else f"{error} (`al dataset build {known.name}`)")
    if wrong:
        raise UserError(f"{_share(wrong, looked_at, len(tables), 'tables')} are damaged: {wrong[0]}")
    return f"{settings.lake}, {_all_good(looked_at, len(tables), 'tables')}"


def _exports(settings: "Settings") -> str:
    from al_dagster.datasets.manifest import damaged_files, read_manifest
    from al_dagster.registry.database import open_registry
    from al_dagster.registry.datasets import list_datasets

    with open_registry(settings.database_url) as registry:
        exports = [record for record in list_datasets(registry) if record.export_path is not None]
    files: list[tuple[str, Path, str, str]] = []
    for record in exports:
        folder = Path(str(record.export_path))
        try:
            manifest = read_manifest(folder)
        except (UserError, OSError):
            raise UserError(
                f"{folder}: the export of {record.reference} is missing or its manifest is damaged; "
                f"`al dataset export {record.reference}` writes it again"
            ) from None
        files += [(record.reference, folder, name, digest) for name, digest in manifest["files"].items()]
    looked_at = _some(files, len(files), lambda file: _size(file[1] / file[2]))
    wrong = [
        (reference, folder, sentence)
        for reference, folder, name, digest in looked_at
        for sentence in damaged_files(folder, {name: digest})
    ]
    if wrong:
        reference, folder, sentence = wrong[0]
        raise UserError(
            f"{_share(wrong, looked_at, len(files), 'files')} of the exports are missing or damaged, such as "
            f"{folder}/{sentence}; `al dataset export {reference}` writes it again"
        )
    return f"{settings.exports_dir}, {len(exports)} exports, {_all_good(looked_at, len(files), 'files')}"


def _some(things: Sequence[T], count: int, size_of: Callable[[T], int]) -> list[T]:
    """At most so many things, of which at most `BYTES_READ` are to be read: all of them, or some at random."""
    chosen: list[T] = []
    left = BYTES_READ
    for thing in random.sample(things, min(count, len(things))):
        left -= size_of(thing)
        if left < 0 and chosen:
            break
        chosen.append(thing)
    return chosen


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _all_good(looked_at: Sequence[object], total: int, what: str) -> str:
    return f"{what} as they were written: " + (
        f"all {total}" if len(looked_at) == total else f"{len(looked_at)} looked at of {total}"
    )


def _share(wrong: Sequence[object], looked_at: Sequence[object], total: int, what: str) -> str:
    of = f"of {total} {what}" if len(looked_at) == total else f"of {len(looked_at)} {what} looked at of {total}"
    return f"{len(wrong)} {of}"


def _dagster(settings: "Settings") -> str:
    from al_dagster.resources.instance import open_instance

    with open_instance(settings) as instance:
        runs = instance.get_runs_count()
    from al_dagster.definitions import defs

    assets = len(list(defs.resolve_all_asset_keys()))
    return f"{os.environ['DAGSTER_HOME']}, {assets} assets, {runs} runs"


def _mlflow(settings: "Settings") -> str:
    from al_dagster.core.databases import damage_of
    from al_dagster.training.tracking import WEIGHTS_FOLDER, Tracking

    database = settings.tracking_uri.removeprefix("sqlite:///")
    if database != settings.tracking_uri:
        path = Path(database)
        if damage := damage_of(path):
            raise UserError(
                f"{path} is damaged ({damage}): put back a copy of it, or move it away and train again (`al train`)"
            )
        if not path.exists() and next(settings.artifacts_dir.glob(f"*/*/*/{WEIGHTS_FOLDER}"), None):
            raise UserError(
                f"{path} is gone, while {settings.artifacts_dir} holds models: put back a copy of it, or train again "
                "(`al train`)"
            )
        if not path.exists():
            return f"{settings.tracking_uri}, made by the first training"
    tracking = Tracking(settings.tracking_uri, settings.artifacts_dir)
    experiments = tracking.client.search_experiments()
    models = tracking.models()
    looked_at = models[:MODELS_LOOKED_AT]
    for model in looked_at:
        tracking.weights_path(*model)
    return f"{tracking.address}, {len(experiments)} experiments, {_all_good(looked_at, len(models), 'models')}"


def _training(settings: "Settings") -> str:
    from al_dagster.yolo.process import require_train_extra

    require_train_extra()
    return f"ultralytics {version('ultralytics')} (AGPL-3.0), torch {version('torch')}"


def _foundation(settings: "Settings") -> str:
    from al_dagster.vision.weights import find, installed, verify

    names = installed(settings.models_dir)
    sizes = {name: find(name, settings.models_dir).size_bytes for name in names}
    for name in (read := _some(names, len(names), sizes.__getitem__)):
        if wrong := verify(name, settings.models_dir):
            raise UserError(
                f"model {name} in {settings.models_dir} is damaged: {wrong[0]}; `al models fetch {name}` gets it anew"
            )
    weights = ", ".join(names) or "no weights, which only the profile foundation needs (`al models fetch`)"
    if len(read) < len(names):
        weights += f" ({len(read)} of them read; `al models verify` reads all)"
    if find_spec("torch") is None:
        return f"{weights}; torch is not installed"
    import torch

    if not torch.cuda.is_available():
        return f"{weights}; no GPU"
    gpu = torch.cuda.get_device_properties(0)
    return f"{weights}; {gpu.name}, {gpu.total_memory / 1e9:.0f} GB"


CHECKS: "dict[str, Callable[[Settings], str]]" = {
    "packages": _packages,
    "home": _home,
    "registry": _registry,
    "vector store": _vector_store,
    "mask store": _mask_store,
    "lake": _lake,
    "exports": _exports,
    "dagster": _dagster,
    "mlflow": _mlflow,
    "training": _training,
    "foundation models": _foundation,
}
"""What is looked at, in this order; without a home nothing after it can be."""

OF_REGISTRY = {"vector store", "mask store", "lake", "exports"}
"""What is looked at by what the registry says of it."""
