"""The executor of the runs that Dagster's server launches."""

from collections.abc import Iterator

import dagster as dg
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.in_process import InProcessExecutor

from al_dagster.resources.instance import owned_run


class OwnedRunExecutor(InProcessExecutor):
    """Executes all steps in the process of the run, which holds the run's lock meanwhile."""

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[dg.DagsterEvent]:
        """Execute the plan; yields its events."""
        with owned_run(plan_context.instance, plan_context.run_id):
            yield from super().execute(plan_context, execution_plan)


@dg.executor(name="in_process")
def run_executor(context: dg.InitExecutorContext) -> OwnedRunExecutor:
    """All steps in the process of the run: models stay loaded from one step to the next."""
    return OwnedRunExecutor(retries=RetryMode.ENABLED)
