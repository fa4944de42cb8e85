"""Jobs, sensors and schedules."""

from al_dagster.automation.jobs import all_jobs
from al_dagster.automation.schedules import nightly_reconcile
from al_dagster.automation.sensors import calibration_sensor, dataset_sensor, inbox_sensor, refresh_sensor

all_sensors = [inbox_sensor, calibration_sensor, refresh_sensor, dataset_sensor]
all_schedules = [nightly_reconcile]

__all__ = ["all_jobs", "all_schedules", "all_sensors"]
