"""The code location: one ``Definitions``."""

import dagster as dg

from al_dagster.assets import all_assets, all_checks
from al_dagster.automation import all_jobs, all_schedules, all_sensors
from al_dagster.core.settings import load_settings
from al_dagster.resources import build_resources
from al_dagster.resources.executor import run_executor

defs = dg.Definitions(
    assets=all_assets,
    asset_checks=all_checks,
    jobs=all_jobs,
    sensors=all_sensors,
    schedules=all_schedules,
    resources=build_resources(load_settings()),
    executor=run_executor,
)
