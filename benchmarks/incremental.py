"""What is not done again: the tick of the dataset sensor with nothing changed, and the groups of near-duplicates.

The sensor is evaluated as the daemon does it, on a registry of labelled objects whose dataset is built: once to look,
and then with the cursor that the first tick left. Perceptual hashes are grouped in batches as images are registered, of
a registry that has none, and then one batch more. Each figure is the best of several runs.

    python benchmarks/incremental.py --json incremental.json
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import numpy as np
import structlog
from publishing import publish
from selection import DISTANCE, PROJECT, fill, measured

from al_dagster.automation.sensors import dataset_sensor
from al_dagster.core.settings import Settings
from al_dagster.datasets.definition import DatasetDefinition
from al_dagster.datasets.unbuilt import content_now
from al_dagster.definitions import defs
from al_dagster.registry.database import Registry, open_registry
from al_dagster.registry.datasets import freeze_dataset, save_definition
from al_dagster.registry.grouping import find_standing, join_groups
from al_dagster.resources import build_resources

BARS = {"seconds_of_a_tick": 0.05, "seconds_of_100000_images": 2.0}
BATCH = 1000


def measure_sensor(folder: Path, count: int, runs: int) -> dict[str, dict[str, float]]:
    """The figures of a first tick and of the best one with nothing changed since."""
    settings = Settings(home=folder)
    path = folder / "registry" / "registry.db"
    path.parent.mkdir()
    definition = DatasetDefinition(name="all", project=PROJECT, auto_build=True)
    with fill(path, count) as registry:
        save_definition(registry, "all", definition.model_dump(mode="json"))
        content = content_now(registry, definition, duplicate_distance=settings.duplicate_distance).content_hash or ""
        freeze_dataset(registry, name="all", definition={}, content_hash=content, run_id=None, assignments=[])
    cursor: str | None = None

    def tick() -> None:
        nonlocal cursor
        with dg.build_sensor_context(
            instance=instance, definitions=defs, resources=build_resources(settings), cursor=cursor
        ) as context:
            result = dataset_sensor(context)
            cursor = context.cursor
        if not isinstance(result, dg.SkipReason):
            raise TypeError(f"nothing has changed, and the sensor gives {result}")

    with dg.DagsterInstance.ephemeral() as instance:
        _, first = measured(tick)
        again = [measured(tick)[1] for _ in range(runs)]
    return {
        "first_tick": first,
        "tick_with_nothing_changed": {key: min(run[key] for run in again) for key in ("seconds", "cpu_seconds")},
    }


def group(registry: Registry, hashes: Sequence[str], start: int = 0) -> None:
    """Give hashes their groups, a batch at a time, as the registration of images does."""
    for first in range(0, len(hashes), BATCH):
        batch = hashes[first : first + BATCH]
        with registry.reader() as session:
            near = find_standing(session, batch, DISTANCE)
        with registry.session() as session:
            join_groups(session, [(f"src_{start + first + i}", value) for i, value in enumerate(batch)], near, DISTANCE)


def measure_groups(folder: Path, count: int) -> dict[str, dict[str, float]]:
    """The figures of the first images and of a batch more; one in ten is a near-duplicate of an earlier one."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 256, (count + BATCH, 32), dtype=np.uint8)
    copies = np.arange(9, len(bits), 10)
    bits[copies] = bits[copies - 9]
    bits[copies, rng.integers(0, 32, len(copies))] ^= 5
    hashes = [row.tobytes().hex() for row in bits]
    with open_registry(f"sqlite:///{folder / 'groups.db'}") as registry:
        _, first = measured(lambda: group(registry, hashes[:count]))
        _, more = measured(lambda: group(registry, hashes[count:], count))
    return {"all_images": first, "a_batch_more": more}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the result as JSON and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="file to write the result to")
    parser.add_argument("--objects", type=int, default=1_000_000, help="objects of the registry that the sensor sees")
    parser.add_argument("--images", type=int, default=100_000, help="images that are grouped")
    parser.add_argument("--runs", type=int, default=5, help="ticks with nothing changed; the best counts")
    options = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    with tempfile.TemporaryDirectory() as folder:
        groups = measure_groups(Path(folder), options.images)
        sensor = measure_sensor(Path(folder), options.objects, options.runs)
    figures = {"sensor": {"objects": options.objects, **sensor}, "groups": {"images": options.images, **groups}}
    publish({**figures, "batch": BATCH, "bars": BARS}, options.json)


if __name__ == "__main__":
    main()
