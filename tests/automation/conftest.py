"""The sensors on an ephemeral instance with the resources of a temporary home."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import pytest
import yaml

from al_dagster.definitions import defs
from al_dagster.resources import build_resources


@dataclass
class Daemon:
    """Evaluates sensors as the daemon does, keeps their cursors and registers the partitions that they ask for."""

    home: Any
    instance: dg.DagsterInstance
    cursors: dict[str, str | None] = field(default_factory=dict)

    def tick(self, sensor: dg.SensorDefinition) -> dg.SensorResult | dg.SkipReason:
        with dg.build_sensor_context(
            instance=self.instance,
            definitions=defs,
            resources=build_resources(self.home.settings),
            cursor=self.cursors.get(sensor.name),
        ) as context:
            result = sensor(context)
            self.cursors[sensor.name] = context.cursor
        if isinstance(result, dg.SensorResult):
            for request in result.dynamic_partitions_requests or []:
                self.instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
        return result

    def execute(
        self, job: str, partition: str | None = None, run_config: Mapping[str, Any] | None = None, **options: Any
    ) -> dg.ExecuteInProcessResult:
        return defs.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            resources=build_resources(self.home.settings),
            partition_key=partition,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}, **(run_config or {})},
            **options,
        )


@pytest.fixture
def daemon(home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    monkeypatch.setenv("AL_SETTLE_SECONDS", "0")
    home.settings.settle_seconds = 0
    with dg.DagsterInstance.ephemeral() as instance:
        yield Daemon(home, instance)


@pytest.fixture
def fill_inbox(home) -> Callable[..., None]:
    """Puts drawn pictures and a ``project.yaml`` into the inbox."""

    def fill(project: str = "shapes", count: int = 2, first: int = 0, **values: object) -> None:
        folder = home.pictures(count, f"inbox/{project}", first)
        config = {"classes": ["disc", "bar"], "support": str(home.support), "classification": {"threshold": 0.4}}
        (folder / "project.yaml").write_text(yaml.safe_dump({**config, **values}))

    return fill
