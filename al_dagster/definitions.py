"""The code location: one ``Definitions``."""

import dagster as dg

from al_dagster.assets import all_assets, all_checks
from al_dagster.automation import all_jobs, all_schedules, all_sensors
from al_dagster.core.settings import load_settings
from al_dagster.resources import build_resources

defs = dg.Definitions(
    assets=all_assets,
    asset_checks=all_checks,
    jobs=all_jobs,
    sensors=all_sensors,
    schedules=all_schedules,
    resources=build_resources(load_settings()),
    executor=dg.in_process_executor,
)
