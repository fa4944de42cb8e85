"""The assets of a batch on an ephemeral instance, with the real embedded models behind counters."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from al_dagster.assets import all_assets, all_checks
from al_dagster.assets.partitions import batches
from al_dagster.core.lake import Lake
from al_dagster.core.project import ProjectConfig
from al_dagster.labelling import models
from al_dagster.labelling.intake import take_folder
from al_dagster.registry.database import open_registry
from al_dagster.registry.objects import list_objects
from al_dagster.resources import build_resources
from al_dagster.vision.profiles import Environment, Models

CHAIN = ("sources", "frames", "detections", "masks", "embeddings", "classifications", "objects", "vector_index")


class Counted:
    """A model that counts the images, boxes or crops it is given; its revision can be changed."""

    def __init__(self, model: Any, method: str, calls: dict[str, int], revisions: Mapping[str, str]) -> None:
        self._model, self._method, self._calls = model, method, calls
        self._revision = revisions.get(method)

    def __getattr__(self, name: str) -> Any:
        if name == "revision" and self._revision:
            return self._revision
        if name != self._method:
            return getattr(self._model, name)

        def counted(first: Sequence[Any], *rest: Any) -> Any:
            units = sum(len(boxes) for boxes in rest[0]) if name == "segment" else len(first)
            self._calls[name] = self._calls.get(name, 0) + units
            return getattr(self._model, name)(first, *rest)

        return counted


@dataclass
class Bench:
    """Runs the chain of a batch and looks at what it left."""

    home: Any
    instance: dg.DagsterInstance
    calls: dict[str, int] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)

    @property
    def lake(self) -> Lake:
        return Lake(self.home.settings.lake)

    def claim(self, folder: Path, project: ProjectConfig | None = None, batch_size: int = 256) -> list[str]:
        with open_registry(self.home.settings.database_url) as registry:
            keys = take_folder(registry, folder, project or self.home.project(), batch_size=batch_size)
        for key in keys:  # one by one, which keeps their order
            self.instance.add_dynamic_partitions(str(batches.name), [key])
        return keys

    def run(
        self,
        key: str | None = None,
        *,
        only: Sequence[str] = CHAIN,
        checks: bool = False,
        check_only: Sequence[tuple[str, str]] = (),
        ops: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> dg.ExecuteInProcessResult:
        """Materialize assets of a batch; ``calls`` then counts what the models were given in this run.

        ``checks`` adds the checks of these assets, ``check_only`` single ones by asset and name.
        """
        self.calls.clear()
        chosen = dg.AssetSelection.assets(*only)
        if checks:
            chosen |= dg.AssetSelection.checks_for_assets(*(a for a in all_assets if a.key.to_user_string() in only))
        for name in check_only:
            chosen |= dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey(name[0]), name[1]))
        return dg.materialize(
            [*all_assets, *all_checks],
            instance=self.instance,
            resources=build_resources(self.home.settings),
            partition_key=key,
            selection=chosen,
            run_config={"ops": ops or {}, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            **options,
        )

    def metadata(self, result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
        (materialization,) = result.asset_materializations_for_node(asset)
        return {name: value.value for name, value in materialization.metadata.items()}

    def objects(self) -> dict[str, dict[str, Any]]:
        with open_registry(self.home.settings.database_url) as registry:
            return {row["object_id"]: row for row in list_objects(registry, limit=None)}


@pytest.fixture
def bench(home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with dg.DagsterInstance.ephemeral() as instance:
        bench = Bench(home, instance)
        build = models.project_models

        def counted(project: ProjectConfig, machine: Environment) -> Models:
            built = build(project, machine)
            return Models(
                Counted(built.detector, "detect", bench.calls, bench.revisions),
                Counted(built.segmenter, "segment", bench.calls, bench.revisions),
                Counted(built.embedder, "embed", bench.calls, bench.revisions),
            )

        monkeypatch.setattr(models, "project_models", counted)
        yield bench
