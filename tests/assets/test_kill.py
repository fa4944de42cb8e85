import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import text

from al_dagster.core.lake import Lake
from al_dagster.core.settings import Settings
from al_dagster.labelling.intake import take_folder
from al_dagster.registry.batches import unfinished_batches
from al_dagster.registry.database import open_registry
from al_dagster.resources.instance import open_instance
from al_dagster.vectors.chroma import ChromaStore
from al_dagster.vision.hog_color import HogColorEmbedder

pytestmark = pytest.mark.slow

CHAIN = ("sources", "frames", "detections", "masks", "embeddings", "classifications", "objects", "vector_index")
KILLED = -9
OF_ITS_OWN_RUN = {"created_at", "updated_at", "labelled_at", "synced_at", "run_id", "id", "outbox_id"}

Command = Callable[..., int]


@pytest.fixture(scope="module")
def command() -> Iterator[Command]:
    """Has a process label a batch, killed on the way if a place is given; its exit status."""
    driver = Path(__file__).with_name("kill_driver.py")
    with subprocess.Popen(
        [sys.executable, driver], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout

        def give(do: str, home: Path, key: str, kill: tuple[str, int] | None = None) -> int:
            process.stdin.write(json.dumps({"do": do, "home": str(home), "key": key, "kill": kill}) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())["exit"]

        yield give
        process.stdin.close()


@pytest.fixture(scope="module")
def claimed(tmp_path_factory: pytest.TempPathFactory, support_folder: Path, shapes, save_picture) -> tuple[Path, str]:
    """A home with a claimed batch of two pictures in it that nobody has labelled, and the batch."""
    from al_dagster.core.project import parse_project

    home = tmp_path_factory.mktemp("claimed") / "home"
    pictures = tmp_path_factory.mktemp("pictures")
    for seed in range(2):
        save_picture(pictures / f"{seed}.png", shapes(seed))
    project = {"name": "shapes", "classes": ["disc", "bar"], "support": support_folder}
    with open_registry(Settings(home=home).database_url) as registry:
        (key,) = take_folder(registry, pictures, parse_project(project, "test"), batch_size=256)
    return home, key


def state_of(home: Path, key: str) -> dict[str, Any]:
    """All that stands after a run: tables of registry and lake, files of masks, vectors; not when, nor by which run.

    The state of the content is a random name for what this very registry held.
    """
    settings = Settings(home=home)
    with open_registry(settings.database_url) as registry, registry.reader() as session:
        names = session.scalars(text("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")).all()
        tables = {
            name: sorted(
                str({column: value for column, value in row.items() if column not in OF_ITS_OWN_RUN})
                for row in session.execute(text(f"SELECT * FROM {name}")).mappings()
            )
            for name in names
            if not name.startswith("sqlite_") and name != "content_state"
        }
    lake = Lake(settings.lake)
    with ChromaStore(settings.chroma_dir, HogColorEmbedder().version_id, HogColorEmbedder().dimension) as store:
        vectors = {key: vector.tobytes() for key, vector in store.get(list(store.ids())).items()}
    return {
        "registry": tables,
        # The outcome of an object says whether this very run inserted it.
        "lake": {name: lake.read(name, key).drop_columns(["outcome"] * (name == "objects")) for name in CHAIN},
        "lake files": sorted(str(path.relative_to(settings.lake)) for path in Path(settings.lake).rglob("*.parquet")),
        "masks": {path.name: path.read_bytes() for path in settings.masks_dir.rglob("obj_*.png")},
        "vectors": vectors,
    }


@pytest.fixture(scope="module")
def undisturbed(
    command: Command, claimed: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    home, key = claimed
    own = shutil.copytree(home, tmp_path_factory.mktemp("undisturbed") / "home")
    assert command("run", own, key) == 0
    return state_of(own, key)


def test_an_undisturbed_run_leaves_something_to_compare_with(undisturbed):
    assert len(undisturbed["masks"]) == len(undisturbed["vectors"]) == 4
    assert len(undisturbed["registry"]["objects"]) == 4
    assert undisturbed["lake"]["vector_index"].num_rows == 4


@pytest.mark.parametrize(
    "kill",
    [
        *((f"{stage} {so_far}", 1) for stage in CHAIN for so_far in ("not written", "half written")),
        ("detections written", 1),
        ("sources committed", 1),
        ("mask half written", 3),
        ("mask written", 1),
        ("objects not committed", 1),
        ("objects committed", 1),
        ("vectors not written", 1),
        ("vectors written", 1),
    ],
    ids=lambda kill: kill[0],
)
def test_killed_and_run_again_a_batch_ends_as_if_undisturbed(kill, command, claimed, undisturbed, tmp_path):
    home, key = claimed
    own = shutil.copytree(home, tmp_path / "home")
    assert command("run", own, key, kill) == KILLED
    with open_registry(Settings(home=own).database_url) as registry:
        assert unfinished_batches(registry) == [key]
    assert command("run", own, key) == 0
    assert state_of(own, key) == undisturbed


def test_a_killed_command_leaves_no_run_that_seems_to_go_on(command, claimed, undisturbed, tmp_path, monkeypatch):
    home, key = claimed
    own = shutil.copytree(home, tmp_path / "home")
    assert command("command", own, key, ("masks half written", 1)) == KILLED
    monkeypatch.setenv("DAGSTER_HOME", str(own / "dagster"))
    with dg.DagsterInstance.get() as instance:
        (left,) = instance.get_runs()
        assert left.status == dg.DagsterRunStatus.STARTED
    assert command("command", own, key) == 0
    with open_instance(Settings(home=own)) as instance:
        statuses = {run.run_id: run.status for run in instance.get_runs()}
        assert statuses.pop(left.run_id) == dg.DagsterRunStatus.FAILURE
        assert list(statuses.values()) == [dg.DagsterRunStatus.SUCCESS]
    assert list((own / "dagster" / "run_locks").iterdir()) == []
    assert state_of(own, key) == undisturbed
