"""The Dagster webserver behind the guard, as a process: ``python -m al_dagster.resources.webserver``."""

import argparse
from http import HTTPStatus

import dagster as dg
import uvicorn
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster_webserver.version import __version__
from dagster_webserver.webserver import DagsterWebserver
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from al_dagster.core.settings import load_settings
from al_dagster.resources.guard import Guard
from al_dagster.resources.pictures import ADDRESS, NAMES


class GuardedWebserver(DagsterWebserver):
    """Dagster's webserver, which only its own pages may drive."""

    def build_routes(self) -> list[BaseRoute]:
        """Dagster's own, which answer whatever is asked, after the pictures."""
        return [Route(ADDRESS + "/{name:path}", _picture), *super().build_routes()]

    def build_middleware(self) -> list[Middleware]:
        """The guard first, so that nothing of Dagster sees what it refuses."""
        hosts = [host.strip() for host in load_settings().ui_hosts.split(",") if host.strip()]
        return [Middleware(Guard, hosts=hosts), *super().build_middleware()]


async def _picture(request: Request) -> Response:
    name = request.path_params["name"]
    path = load_settings().pictures_dir / name
    if NAMES.fullmatch(name) is None or not path.is_file():
        return PlainTextResponse("there is no such picture\n", HTTPStatus.NOT_FOUND)
    # Its name says what it was made from, so that it never changes.
    return FileResponse(path, headers={"Cache-Control": "private, max-age=31536000, immutable"})


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workspace", required=True, help="the workspace.yaml that names the code server")
    given = parser.parse_args()
    with dg.DagsterInstance.get() as instance:
        instance.optimize_for_webserver(statement_timeout=15_000, pool_recycle=3600, max_overflow=20)
        target = WorkspaceFileTarget([given.workspace])
        with WorkspaceProcessContext(instance, version=__version__, workspace_load_target=target) as workspace:
            app = GuardedWebserver(workspace).create_asgi_app()
            uvicorn.run(app, host=given.host, port=given.port, log_level="warning")


if __name__ == "__main__":
    main()
