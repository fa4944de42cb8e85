"""``al doctor``."""

import os
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from al_dagster.cli.output import Json, console, print_json, progress_bars, say
from al_dagster.core.errors import UserError

if TYPE_CHECKING:
    from al_dagster.core.settings import Settings

SMALLEST_FREE_GB = 2.0
MASKS_LOOKED_AT = 1000
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
    for name, check in CHECKS.items():
        with progress_bars(not as_json, title=f"looking at {name}"):
            ok, says = _judged(check, settings)
        found.append({"what": name, "ok": ok, "says": says})
        if name == "home" and not ok:
            break
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
    from al_dagster.registry.database import open_registry
    from al_dagster.registry.objects import count_objects

    with open_registry(settings.database_url) as registry:
        return f"{settings.database_url}, {count_objects(registry)} objects"


def _vector_store(settings: "Settings") -> str:
    from al_dagster.registry.database import open_registry
    from al_dagster.registry.embedding_versions import list_versions
    from al_dagster.registry.outbox import outbox_counts
    from al_dagster.vectors.chroma import ChromaStore

    with open_registry(settings.database_url) as registry:
        counts = []
        for known in list_versions(registry):
            with ChromaStore(settings.chroma_dir, known.version_id, known.dimension) as store:
                counts.append(f"{store.count()} vectors of {known.version_id}")
        outbox = outbox_counts(registry)
    if outbox["failed"]:
        raise UserError(f"{outbox['failed']} vectors were refused; `al sync --reconcile` tries them again")
    if outbox["pending"]:
        counts.append(f"{outbox['pending']} changes wait for `al sync`")
    return ", ".join(counts) or "empty"


def _mask_store(settings: "Settings") -> str:
    from al_dagster.registry.database import open_registry
    from al_dagster.registry.objects import list_objects

    with open_registry(settings.database_url) as registry:
        rows = [row for row in list_objects(registry, limit=MASKS_LOOKED_AT) if row["mask_path"]]
    missing = [row for row in rows if not (settings.masks_dir / row["mask_path"]).exists()]
    if missing:
        raise UserError(
            f"{len(missing)} masks are missing in {settings.masks_dir}, such as {missing[0]['mask_path']}; "
            f"`al ingest --project {missing[0]['project_id']} --again` makes them anew"
        )
    return f"{settings.masks_dir}, the masks of {len(rows)} objects are there"


def _dagster(settings: "Settings") -> str:
    from al_dagster.resources.instance import open_instance

    with open_instance(settings) as instance:
        runs = instance.get_runs_count()
    from al_dagster.definitions import defs

    assets = len(list(defs.resolve_all_asset_keys()))
    return f"{os.environ['DAGSTER_HOME']}, {assets} assets, {runs} runs"


def _mlflow(settings: "Settings") -> str:
    from al_dagster.training.tracking import Tracking

    database = settings.tracking_uri.removeprefix("sqlite:///")
    if database != settings.tracking_uri and not Path(database).exists():
        return f"{settings.tracking_uri}, made by the first training"
    experiments = Tracking(settings.tracking_uri, settings.artifacts_dir).client.search_experiments()
    return f"{settings.tracking_uri}, {len(experiments)} experiments"


def _training(settings: "Settings") -> str:
    from al_dagster.yolo.process import require_train_extra

    require_train_extra()
    return f"ultralytics {version('ultralytics')} (AGPL-3.0), torch {version('torch')}"


def _foundation(settings: "Settings") -> str:
    from al_dagster.vision.weights import find, installed

    for name in (names := installed(settings.models_dir)):
        find(name, settings.models_dir)
    weights = ", ".join(names) or "no weights, which only the profile foundation needs (`al models fetch`)"
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
    "dagster": _dagster,
    "mlflow": _mlflow,
    "training": _training,
    "foundation models": _foundation,
}
"""What is looked at, in this order; without a home nothing after it can be."""
