"""The schedules."""

import dagster as dg

from al_dagster.automation.jobs import reconcile_vectors

nightly_reconcile = dg.ScheduleDefinition(
    name="nightly_reconcile",
    job=reconcile_vectors,
    cron_schedule="30 3 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Reconciles registry and vector store every night.",
)
