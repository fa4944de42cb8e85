"""What `al status` counts."""

from al_dagster.core.project import ProjectConfig
from al_dagster.registry.batches import FileEntry, claim_files
from al_dagster.registry.projects import save_project
from al_dagster.registry.sources import quarantined_files, register_sources
from al_dagster.registry.status import read_status

UNREADABLE = {"status": "quarantined", "reason": "is no image", "source_id": None}


def test_a_file_that_has_changed_is_counted_once_and_as_what_it_is_now(registry):
    save_project(registry, ProjectConfig(name="parts", classes=("nut",)))
    for version in (1, 2):
        files = [FileEntry("/a.jpg", version, 0), FileEntry(f"/only in {version}.jpg", 9, 0)]
        (batch,) = claim_files(registry, "parts", files, 10)
        register_sources(registry, batch, [{"file_path": file.file_path, **UNREADABLE} for file in files], 6)
    (project,) = read_status(registry)["projects"]
    assert (project["files"], project["quarantined"]) == (3, 3)
    assert len(quarantined_files(registry, "parts")) == 3
