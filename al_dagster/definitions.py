"""The code location: one ``Definitions``."""

import dagster as dg

from al_dagster.assets import all_assets, all_checks
from al_dagster.automation import all_jobs, all_schedules, all_sensors
from al_dagster.core.logging import configure_logging
from al_dagster.core.settings import load_settings
from al_dagster.resources import build_resources
from al_dagster.resources.event_log import log_to_runs
from al_dagster.resources.executor import run_executor

settings = load_settings()
# Whatever process loads the code location: code server, run, `al`, or one of Dagster's commands.
configure_logging(settings, quiet=True)
log_to_runs()

defs = dg.Definitions(
    assets=all_assets,
    asset_checks=all_checks,
    jobs=all_jobs,
    sensors=all_sensors,
    schedules=all_schedules,
    resources=build_resources(settings),
    executor=run_executor,
)
