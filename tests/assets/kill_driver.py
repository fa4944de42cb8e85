"""Labels a batch in processes that end at a chosen moment as if somebody had killed them.

Reads a JSON object a line from standard input and answers each with one a line. It imports everything once and forks
for each command, so that a run costs what it does and not what its imports do. Commands:
``{"do": "run", "home": ..., "key": ..., "kill": [place, call] or null}`` labels the batch, and
``{"do": "command", ...}`` does it the way the command line does, on the instance of the home.
"""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import alembic.command  # noqa: F401
import chromadb  # noqa: F401
import dagster as dg
import imagehash  # noqa: F401
import pandas  # noqa: F401
import pyarrow.parquet as pq

from al_dagster import runs
from al_dagster.assets import all_assets
from al_dagster.assets.partitions import batches
from al_dagster.core.lake import Lake
from al_dagster.core.project import ModelsConfig
from al_dagster.core.settings import load_settings
from al_dagster.labelling import classify, detect, embed, index, ingest, register, segment, sheets  # noqa: F401
from al_dagster.registry import batches as ledger
from al_dagster.registry import labelling, outbox
from al_dagster.resources import build_resources
from al_dagster.vectors.chroma import ChromaStore
from al_dagster.vision import profiles

profiles.build_models("embedded", ModelsConfig(), (), profiles.Environment(Path(), Path()))
dg.DagsterInstance.ephemeral().dispose()
if "foundation" in sys.argv[1:]:
    from al_dagster.vision import dinov2, florence2, sam2  # noqa: F401


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def on_call(number: int, before: bool, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which kills the process before or after its n-th call, counted from 1."""
    calls = 0

    def watched(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if before and calls == number:
            die()
        result = function(*args, **options)
        if calls == number:
            die()
        return result

    return watched


def arm(place: str, call: int) -> None:
    """Have this process killed at a place: ``before``, ``within`` or ``after`` the write of an asset, or another."""
    when, _, what = place.partition(":")
    write = Lake.write

    def lake_write(lake: Lake, asset: str, partition: str, table: Any) -> int:
        if asset == what and when == "before":
            die()
        if asset == what and when == "within":
            pq.write_table = half_a_file
        size = write(lake, asset, partition, table)
        if asset == what and when == "after":
            die()
        return size

    def half_a_file(table: Any, file: Any, **options: Any) -> None:
        file.write(b"PAR1 half a file")
        file.flush()
        die()

    if when in ("before", "within", "after"):
        Lake.write = lake_write  # type: ignore[method-assign]
    elif place in ("mask half written", "mask written"):
        of_mask = on_call(call, place == "mask half written", Path.replace)
        of_others = Path.replace
        Path.replace = lambda path, to: (of_mask if to.suffix == ".png" else of_others)(path, to)  # type: ignore
    elif place == "objects not committed":
        labelling.queue_upserts = on_call(call, False, labelling.queue_upserts)
    elif place == "objects committed":
        register.record_run = on_call(call, True, ledger.record_run)
    elif place == "vectors not written":
        ChromaStore.upsert = on_call(call, True, ChromaStore.upsert)  # type: ignore[method-assign]
    elif place == "vectors written":
        outbox._mark = on_call(call, True, outbox._mark)
    elif place == "sources committed":
        ingest.register_sources = on_call(call, False, ingest.register_sources)
    elif when == "model":
        kill_in_model(what, call)
    else:
        raise ValueError(place)


def kill_in_model(role: str, call: int) -> None:
    """Have this process killed while a foundation model is called, an image at a time."""
    from al_dagster.vision.dinov2 import DinoV2Embedder
    from al_dagster.vision.florence2 import Florence2Detector
    from al_dagster.vision.sam2 import Sam2Segmenter

    model = {"detect": Florence2Detector, "segment": Sam2Segmenter, "embed": DinoV2Embedder}[role]
    setattr(model, role, on_call(call, True, getattr(model, role)))
    model.images_per_call = property(lambda self: 1, lambda self, value: None)


def label(key: str) -> None:
    chain = [asset for asset in all_assets if asset.partitions_def == batches]
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(str(batches.name), [key])
        dg.materialize(
            chain,
            instance=instance,
            resources=build_resources(load_settings()),
            partition_key=key,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )


def obey(command: dict[str, Any]) -> None:
    os.environ |= {"AL_HOME": command["home"], "AL_DEVICE": "cpu"}
    os.environ.pop("DAGSTER_HOME", None)
    if command.get("kill"):
        arm(*command["kill"])
    if command["do"] == "command":
        runs.execute("label_batch", partition=command["key"], partitions=batches)
    else:
        label(command["key"])


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 1
            with contextlib.redirect_stdout(sys.stderr):
                try:
                    obey(json.loads(line))
                    status = 0
                except BaseException as error:
                    sys.stderr.write(f"{error!r}\n")
            os._exit(status)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(json.dumps({"exit": os.waitstatus_to_exitcode(status)}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
