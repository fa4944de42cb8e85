import json
import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

pytestmark = pytest.mark.slow

RUNS = "{ runsOrError { ... on Runs { results { runId status jobName tags { key value } } } } }"
LAUNCH = """
mutation Launch($parameters: ExecutionParams!) {
  launchRun(executionParams: $parameters) { __typename ... on LaunchRunSuccess { run { runId } } }
}
"""
STATUS = "query Status($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
CANCEL = "mutation Cancel($id: String!) { terminateRun(runId: $id) { __typename } }"
MATERIALIZATION = """
query Materialization($asset: AssetKeyInput!) {
  assetOrError(assetKey: $asset) {
    ... on Asset {
      assetMaterializations(limit: 1) {
        partition
        runId
        metadataEntries { label ... on MarkdownMetadataEntry { mdStr } ... on IntMetadataEntry { intValue } }
      }
    }
  }
}
"""
GROUPS = ("ingest", "label", "register", "review", "dataset", "model")
BROWSER = os.environ.get("AL_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
ASSETS = (
    "sources",
    "frames",
    "detections",
    "masks",
    "embeddings",
    "classifications",
    "objects",
    "vector_index",
    "calibration",
    "dataset",
    "dataset_export",
    "trained_model",
    "evaluation",
)


@pytest.fixture(scope="module")
def run(server) -> dict:
    """The run that the sensor requested for the files in the inbox, once it has ended."""

    def finished() -> dict | None:
        runs = server.ask(RUNS)["runsOrError"]["results"]
        return next((run for run in runs if run["status"] in ("SUCCESS", "FAILURE", "CANCELED")), None)

    return server.wait_for("run that has ended", finished)


@pytest.fixture(scope="module")
def page(server, run) -> Iterator:
    if BROWSER is None:
        pytest.skip("no chromium is installed: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=list(OPTIONS))
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def keep_screenshot(page, name: str) -> None:
    """Save what the browser shows into the folder that AL_SCREENSHOTS names, if it names one."""
    folder = os.environ.get("AL_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.wait_for_timeout(3000)  # until what is loaded late, such as the states of the assets, is there
        page.screenshot(path=Path(folder) / f"{name}.png")


def test_files_in_the_inbox_are_labelled_by_a_run_of_the_daemon(run):
    assert (run["status"], run["jobName"]) == ("SUCCESS", "label_batch")
    tags = {tag["key"]: tag["value"] for tag in run["tags"]}
    assert tags["dagster/sensor_name"] == "inbox_sensor"
    assert tags["dagster/partition"].startswith("shapes--")


def test_the_files_are_labelled_by_that_run_alone(server, run):
    runs = server.ask(RUNS)["runsOrError"]["results"]
    assert [found["runId"] for found in runs if found["jobName"] == "label_batch"] == [run["runId"]]


def test_the_materialization_has_counts_and_a_contact_sheet(server, run):
    (found,) = server.ask(MATERIALIZATION, asset={"path": ["classifications"]})["assetOrError"]["assetMaterializations"]
    assert found["runId"] == run["runId"]
    entries = {entry["label"]: entry for entry in found["metadataEntries"]}
    assert entries["classifications"]["intValue"] == 8
    assert entries["contact_sheet"]["mdStr"].startswith("![](/pictures/")


def test_the_browser_shows_the_graph_with_every_asset(server, page):
    expanded = ",".join(f"global@global:{group}" for group in GROUPS)
    page.goto(f"{server.url}/asset-groups")
    page.get_by_text("Hide navigation").click()
    page.get_by_placeholder("Jump to").locator("xpath=following::button[1]").click()
    page.goto(f"{server.url}/asset-groups?expanded={expanded}")
    for name in ASSETS:
        page.get_by_text(name, exact=True).filter(visible=True).first.wait_for()
    keep_screenshot(page, "graph")


def test_the_browser_shows_the_contact_sheet_of_the_labels(server, run, page):
    partition = next(tag["value"] for tag in run["tags"] if tag["key"] == "dagster/partition")
    page.goto(f"{server.url}/assets/classifications?view=partitions&partition={partition}")
    page.get_by_text(partition, exact=True).first.wait_for()
    entry = page.get_by_role("row").filter(has_text="contact_sheet")
    picture = entry.locator('img[src^="/pictures/"]')
    picture.wait_for()
    keep_screenshot(page, "materialization")
    assert picture.evaluate("image => image.naturalWidth") > 100
    picture.scroll_into_view_if_needed()
    keep_screenshot(page, "contact_sheet")


def processes_of(run_id: str) -> list[psutil.Process]:
    """The processes that work on a run."""
    found = [process for process in psutil.process_iter(["cmdline"]) if run_id in str(process.info["cmdline"])]
    assert found
    return found


def test_a_second_run_waits_for_the_accelerator_until_the_first_is_cancelled(server, run):
    """Runs whose assets share the pool ``gpu`` go one at a time, and a cancelled one gives its place back."""
    partition = next(tag["value"] for tag in run["tags"] if tag["key"] == "dagster/partition")
    parameters = {
        "selector": {
            "repositoryLocationName": "al_dagster.definitions",
            "repositoryName": "__repository__",
            "jobName": "label_batch",
        },
        "runConfigData": {},
        "executionMetadata": {"tags": [{"key": "dagster/partition", "value": partition}]},
    }
    first, second = (server.ask(LAUNCH, parameters=parameters)["launchRun"]["run"]["runId"] for _ in range(2))

    def status(run_id: str) -> str:
        return server.ask(STATUS, id=run_id)["runOrError"]["status"]

    server.wait_for("first run at work", lambda: status(first) == "STARTED")
    workers = processes_of(first)
    for worker in workers:
        worker.suspend()  # or the run may end before it is cancelled
    assert status(second) == "QUEUED"
    cancelled = server.ask(CANCEL, id=first)["terminateRun"]["__typename"]
    for worker in workers:
        worker.resume()
    assert cancelled == "TerminateRunSuccess"
    server.wait_for("second run that has succeeded", lambda: status(second) == "SUCCESS")
    assert status(first) == "CANCELED"


def answered(server, body: bytes | None = None, query: str = "", **headers: str) -> int:
    """The status of a request to the real server."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"{server.url}/graphql{query}", data=body, headers=given)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        return refused.code


def test_another_page_in_the_browser_cannot_drive_the_server(server, run):
    mutation = "mutation{setNuxSeen}"
    body = json.dumps({"query": mutation}).encode()
    assert answered(server, body, Content_Type="application/json") == 200
    assert answered(server, query="?" + urllib.parse.urlencode({"query": mutation})) == 403
    assert answered(server, body, Content_Type="text/plain") == 403
    assert answered(server, body, Content_Type="application/json", Origin="https://evil.example") == 403
    assert answered(server, body, Content_Type="application/json", Host="evil.example") == 403
    assert answered(server, body, Content_Type="application/json", Sec_Fetch_Site="cross-site") == 403


def test_the_pages_of_the_server_itself_have_a_websocket_and_no_others(server, run):
    address = server.url.replace("http", "ws") + "/graphql"
    with connect(address, origin=server.url, subprotocols=["graphql-ws"]) as socket:
        socket.send(json.dumps({"type": "connection_init"}))
        assert json.loads(socket.recv(timeout=30))["type"] == "connection_ack"
    with pytest.raises(InvalidStatus, match="403"):
        connect(address, origin="https://evil.example", subprotocols=["graphql-ws"])
