import hashlib
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save

from al_dagster.core.errors import UserError
from al_dagster.core.progress import listening
from al_dagster.vision.catalog import CATALOG
from al_dagster.vision.fetch import fetch
from al_dagster.vision.pickles import convert_pickles
from al_dagster.vision.weights import MANIFEST, find, read_manifest, verify

REPOSITORY = CATALOG["dinov2-base"].repository
PINNED = CATALOG["dinov2-base"].commit
NEWER = "b" * 40
CONFIG = json.dumps({"model_type": "dinov2", "hidden_size": 2}).encode()


class Hub(ThreadingHTTPServer):
    """A model hub with one repository, and ways in which it may fail."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.branches = {"main": PINNED, PINNED: PINNED, NEWER: NEWER}
        self.files = {
            "config.json": CONFIG,
            "preprocessor_config.json": b"{}",
            "model.safetensors": save({"a": torch.ones(2, 2)}, metadata={"format": "pt"}),
            "README.md": b"read me",
            "pytorch_model.bin": b"never asked for",
            "onnx/config.json": b"of another format",
        }
        self.requests: list[tuple[str, str]] = []
        self.sent_instead: dict[str, bytes] = {}
        self.cut_off: set[str] = set()
        self.stalled: set[str] = set()
        self.reached = threading.Event()
        self.refusal: tuple[int, dict[str, str]] | None = None

    def downloads(self) -> list[str]:
        return [path.split("/")[-1] for method, path in self.requests if method == "GET" and "/resolve/" in path]


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        hub = self.server
        path = self.path.split("?")[0]
        hub.requests.append((self.command, path))
        if hub.refusal:
            status, headers = hub.refusal
            self._send(status, b"{}", headers)
        elif path.startswith(f"/api/models/{REPOSITORY}/revision/"):
            self._list(path.rsplit("/", 1)[1])
        elif path.startswith(f"/{REPOSITORY}/resolve/"):
            commit, name = path.removeprefix(f"/{REPOSITORY}/resolve/").split("/", 1)
            self._serve(name, commit)
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET  # noqa: N815

    def _list(self, revision: str) -> None:
        if revision not in self.server.branches:
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return
        commit = self.server.branches[revision]
        siblings = []
        for name, content in self.server.files.items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            entry = {"rfilename": name, "size": len(content), "blobId": blob}
            if name.endswith((".safetensors", ".bin")):
                entry["lfs"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "pointerSize": 1}
            siblings.append(entry)
        listing = {"id": REPOSITORY, "modelId": REPOSITORY, "sha": commit, "siblings": siblings}
        self._send(200, json.dumps(listing).encode(), {"Content-Type": "application/json"})

    def _serve(self, name: str, commit: str) -> None:
        hub = self.server
        content = hub.files[name]
        etag = hashlib.sha256(content).hexdigest()
        sent = hub.sent_instead.get(name, content)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}
        if self.command == "GET" and name in hub.stalled:
            self._send(200, sent, headers, body=sent[:8])
            hub.reached.set()
            threading.Event().wait(30)
        elif self.command == "GET" and name in hub.cut_off:
            self._send(200, sent[:-5], headers)
        else:
            self._send(200, sent, headers)

    def _send(self, status: int, content: bytes, headers: dict[str, str], body: bytes | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content if body is None else body)
            self.wfile.flush()

    def log_message(self, *args: object) -> None:
        """Keep standard error clean."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    server = Hub()
    # What HF_ENDPOINT sets where it is there before the client is imported.
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    address = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """A checkpoint folder with these files, and a configuration unless one is given."""

    def write(**files: bytes) -> Path:
        place = tmp_path / "given"
        place.mkdir()
        for name, content in {"config.json": CONFIG, **files}.items():
            (place / name).write_bytes(content)
        return place

    return write


@contextmanager
def _files_at_most(size: int) -> Iterator[None]:
    """No file can grow beyond this many bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _no_room() -> AbstractContextManager[object]:
    return pytest.raises(UserError, match=r"^the model cannot be written \(.*\); make room, or set AL_MODELS to")


def _left_over(models: Path) -> list[str]:
    return sorted(path.name for path in models.iterdir() if not path.name.endswith(".lock") and path.name[0] == ".")


def test_the_pinned_commit_is_fetched_whole_and_recorded(hub: Hub, models: Path) -> None:
    fetched = fetch("dinov2-base", models_dir=models)
    assert fetched.new
    assert fetched.weights == find("dinov2-base", models)
    assert fetched.weights.commit == PINNED
    assert {path.name for path in fetched.weights.folder.iterdir()} == {
        "config.json",
        "preprocessor_config.json",
        "model.safetensors",
        MANIFEST,
    }
    manifest = read_manifest(fetched.weights.folder)
    assert (manifest.repository, manifest.commit, manifest.origin) == (REPOSITORY, PINNED, hub.endpoint)
    content = hub.files["model.safetensors"]
    assert manifest.files["model.safetensors"].sha256 == hashlib.sha256(content).hexdigest()
    assert verify("dinov2-base", models) == []
    assert _left_over(models) == []


def test_a_second_fetch_asks_the_hub_nothing(hub: Hub, models: Path) -> None:
    first = fetch("dinov2-base", models_dir=models)
    hub.requests.clear()
    second = fetch("dinov2-base", models_dir=models)
    assert (second.new, second.weights) == (False, first.weights)
    assert hub.requests == []


def test_a_fetch_of_what_is_there_whole_writes_nothing_and_waits_for_nobody(hub: Hub, models: Path) -> None:
    first = fetch("dinov2-base", models_dir=models)
    with FileLock(models / ".dinov2-base.lock"):
        assert fetch("dinov2-base", models_dir=models) == replace(first, new=False)
    for file in models.glob(".*"):
        file.unlink()
    before = models.stat().st_mtime_ns
    for revision in (None, PINNED):
        assert fetch("dinov2-base", models_dir=models, revision=revision) == replace(first, new=False)
    assert [path.name for path in models.iterdir()] == ["dinov2-base"]
    assert models.stat().st_mtime_ns == before


def test_a_model_in_a_shared_folder_that_is_read_only_is_here_already(hub: Hub, models: Path) -> None:
    fetch("dinov2-base", models_dir=models)
    models.chmod(0o555)
    try:
        if os.access(models, os.W_OK):
            pytest.skip("this user may write everywhere")
        assert not fetch("dinov2-base", models_dir=models).new
        with pytest.raises(UserError, match="set AL_MODELS to a folder that can be written to"):
            fetch("dinov2-base", models_dir=models, revision=NEWER)
    finally:
        models.chmod(0o755)


def test_a_branch_is_resolved_once_and_its_commit_kept_to(hub: Hub, models: Path) -> None:
    hub.branches["main"] = NEWER
    assert fetch("dinov2-base", models_dir=models, revision="main").weights.commit == NEWER
    hub.branches["main"] = PINNED
    (models / "dinov2-base" / "model.safetensors").write_bytes(b"")
    again = fetch("dinov2-base", models_dir=models)
    assert (again.new, again.weights.commit) == (True, NEWER)
    assert verify("dinov2-base", models) == []


def test_another_revision_replaces_the_model(hub: Hub, models: Path) -> None:
    before = fetch("dinov2-base", models_dir=models).weights
    hub.files["model.safetensors"] = save({"a": torch.zeros(2, 2)}, metadata={"format": "pt"})
    after = fetch("dinov2-base", models_dir=models, revision=NEWER).weights
    assert after.commit == NEWER
    assert after.revision != before.revision
    assert _left_over(models) == []


def test_progress_is_reported_up_to_the_end(hub: Hub, models: Path) -> None:
    hub.files["model.safetensors"] = save({"a": torch.ones(1024, 1024)}, metadata={"format": "pt"})
    reports: dict[str, tuple[int, int]] = {}
    with listening(lambda step, done, total: reports.update({step: (done, total)})):
        fetch("dinov2-base", models_dir=models)
    assert reports["dinov2-base, MB"] == (4, 4)


def test_a_download_that_is_cut_off_leaves_no_model_and_goes_on_later(hub: Hub, models: Path) -> None:
    hub.cut_off.add("preprocessor_config.json")
    hub.files["preprocessor_config.json"] = b'{"size": {"shortest_edge": 256}}'
    with pytest.raises(UserError, match=r"cut off|other content"):
        fetch("dinov2-base", models_dir=models)
    assert not (models / "dinov2-base").exists()
    hub.cut_off.clear()
    hub.requests.clear()
    assert fetch("dinov2-base", models_dir=models).new
    assert hub.downloads() == ["preprocessor_config.json"]
    assert verify("dinov2-base", models) == []


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_content_that_is_not_what_the_hub_records_is_refused(hub: Hub, models: Path, name: str) -> None:
    hub.sent_instead[name] = bytes(len(hub.files[name]))
    with pytest.raises(UserError, match=f"{name} .* other content than the hub records"):
        fetch("dinov2-base", models_dir=models)
    assert not (models / "dinov2-base").exists()
    hub.sent_instead.clear()
    assert fetch("dinov2-base", models_dir=models).new


def test_a_process_killed_in_the_middle_of_a_download_is_made_good_by_the_next(hub: Hub, models: Path) -> None:
    hub.stalled.add("model.safetensors")
    code = (
        "import sys, pathlib\nfrom al_dagster.vision.fetch import fetch\n"
        "fetch('dinov2-base', models_dir=pathlib.Path(sys.argv[1]))"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HUB_CACHE": str(models.parent / "cache")}
    child = subprocess.Popen([sys.executable, "-c", code, str(models)], env=environment)
    assert hub.reached.wait(60)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (models / "dinov2-base").exists()
    assert len(_left_over(models)) == 1
    hub.stalled.clear()
    hub.requests.clear()
    assert fetch("dinov2-base", models_dir=models).new
    assert hub.downloads() == ["model.safetensors", "preprocessor_config.json"]
    assert verify("dinov2-base", models) == []
    assert _left_over(models) == []


def test_a_process_killed_between_the_two_renames_loses_nothing(hub: Hub, models: Path) -> None:
    fetch("dinov2-base", models_dir=models)
    (models / "dinov2-base").rename(models / ".dinov2-base.old")
    hub.requests.clear()
    assert not fetch("dinov2-base", models_dir=models).new
    assert hub.requests == []
    assert verify("dinov2-base", models) == []
    assert _left_over(models) == []


def test_staging_folders_of_other_commits_are_cleared_away(hub: Hub, models: Path) -> None:
    (models / ".dinov2-base@0000.part").mkdir(parents=True)
    fetch("dinov2-base", models_dir=models)
    assert _left_over(models) == []


def test_a_model_is_fetched_by_one_process_at_a_time(hub: Hub, models: Path) -> None:
    models.mkdir()
    with FileLock(models / ".dinov2-base.lock"), pytest.raises(UserError, match="another process is fetching"):
        fetch("dinov2-base", models_dir=models)


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (404, {"X-Error-Code": "RepoNotFound"}, "has no repository facebook/dinov2-base, or it is private.*HF_TOKEN"),
        (403, {"X-Error-Code": "GatedRepo"}, "is gated: accept its terms.*HF_TOKEN"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "has no revision f9e44"),
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "refuses the token in HF_TOKEN"),
        (500, {}, "answered 500 for facebook/dinov2-base"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(
    hub: Hub, models: Path, status: int, headers: dict[str, str], words: str
) -> None:
    hub.refusal = status, headers
    with pytest.raises(UserError, match=words) as said:
        fetch("dinov2-base", models_dir=models)
    assert "\n" not in str(said.value)


def test_without_a_network_the_other_way_is_named(hub: Hub, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"http://127.0.0.1:9 cannot be reached.*`--from FOLDER`"):
        fetch("dinov2-base", models_dir=models)


def test_a_full_disk_is_said_before_anything_is_fetched(
    hub: Hub, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("al_dagster.vision.fetch.shutil.disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"has 0 MB free .* set AL_MODELS"):
        fetch("dinov2-base", models_dir=models)
    assert hub.downloads() == []


@pytest.mark.parametrize("limit", [64, 300], ids=["a file", "the manifest"])
def test_room_that_runs_out_while_a_model_is_downloaded_or_recorded_is_one_sentence(
    hub: Hub, models: Path, limit: int
) -> None:
    with _files_at_most(limit), _no_room():
        fetch("dinov2-base", models_dir=models)
    assert not (models / "dinov2-base").exists()
    (stage,) = models.glob(".*.part")
    assert (stage / "model.safetensors").exists() == (limit == 300)
    assert fetch("dinov2-base", models_dir=models).new
    assert verify("dinov2-base", models) == []
    assert _left_over(models) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_disk_that_is_full_when_a_model_is_recorded_is_one_sentence(hub: Hub, models: Path) -> None:
    stage = models / f".dinov2-base@{PINNED[:12]}.part"
    stage.mkdir(parents=True)
    (stage / MANIFEST).symlink_to("/dev/full")
    with _no_room():
        fetch("dinov2-base", models_dir=models)
    assert not (models / "dinov2-base").exists()


def test_room_that_runs_out_while_a_folder_is_copied_is_one_sentence(folder: Callable[..., Path], models: Path) -> None:
    source = folder(**{"model.safetensors": save({"a": torch.ones(64, 64)})})
    with _files_at_most(10_000), _no_room():
        fetch("dinov2-base", models_dir=models, source=source)
    assert not (models / "dinov2-base").exists()
    assert fetch("dinov2-base", models_dir=models, source=source).new
    assert _left_over(models) == []


def test_room_that_runs_out_while_pickles_are_converted_is_one_sentence(
    folder: Callable[..., Path], models: Path, tmp_path: Path
) -> None:
    tied = torch.ones(64, 64)
    torch.save({"a": tied, "b": tied}, tmp_path / "state.bin")
    source = folder(**{"pytorch_model.bin": (tmp_path / "state.bin").read_bytes()})
    with _files_at_most(25_000), _no_room():
        fetch("dinov2-base", models_dir=models, source=source, allow_pickle=True)
    assert not (models / "dinov2-base").exists()
    assert fetch("dinov2-base", models_dir=models, source=source, allow_pickle=True).new
    assert _left_over(models) == []


def test_what_a_killed_conversion_leaves_is_no_part_of_the_model(hub: Hub, models: Path, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2, 2)}, tmp_path / "state.bin")
    del hub.files["model.safetensors"]
    hub.files["pytorch_model.bin"] = (tmp_path / "state.bin").read_bytes()
    stage = models / f".dinov2-base@{PINNED[:12]}.part"
    stage.mkdir(parents=True)
    for left in (".tmpA1b2C3", ".model.safetensors"):
        (stage / left).write_bytes(b"half")
    weights = fetch("dinov2-base", models_dir=models, allow_pickle=True).weights
    assert {path.name for path in weights.folder.iterdir()} == {
        "config.json",
        "preprocessor_config.json",
        "model.safetensors",
        MANIFEST,
    }
    assert verify("dinov2-base", models) == []


def test_who_may_read_the_files_of_a_model_may_read_its_converted_weights(
    folder: Callable[..., Path], models: Path, tmp_path: Path
) -> None:
    torch.save({"a": torch.ones(2, 2)}, tmp_path / "state.bin")
    source = folder(**{"pytorch_model.bin": (tmp_path / "state.bin").read_bytes()})
    weights = fetch("dinov2-base", models_dir=models, source=source, allow_pickle=True).weights
    assert len({path.stat().st_mode for path in weights.folder.iterdir()}) == 1


def test_a_pickle_on_the_hub_is_refused_and_with_leave_kept_as_safetensors(
    hub: Hub, models: Path, tmp_path: Path
) -> None:
    tied = torch.arange(6.0).reshape(2, 3)
    torch.save({"a": tied, "b": tied, "c": tied.t()}, tmp_path / "state.bin")
    del hub.files["model.safetensors"]
    hub.files["pytorch_model.bin"] = (tmp_path / "state.bin").read_bytes()
    with pytest.raises(UserError, match=r"pickle \(pytorch_model.bin\).*--allow-pickle"):
        fetch("dinov2-base", models_dir=models)
    assert hub.downloads() == []
    weights = fetch("dinov2-base", models_dir=models, allow_pickle=True).weights
    assert {path.suffix for path in weights.folder.iterdir()} == {".json", ".safetensors"}
    tensors = load_file(weights.folder / "model.safetensors")
    assert all(torch.equal(tensors[name], value) for name, value in {"a": tied, "b": tied, "c": tied.t()}.items())
    assert verify("dinov2-base", models) == []


class Harm:
    """What a pickle can do when it is loaded carelessly."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (os.environ["HARM"],)


def test_a_pickle_that_runs_code_runs_none(
    folder: Callable[..., Path], models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARM", str(tmp_path / "harm"))
    source = folder(**{"pytorch_model.bin": pickle.dumps({"a": Harm()}, protocol=2)})
    with pytest.raises(UserError, match=r"pytorch_model.bin is not loaded"):
        fetch("dinov2-base", models_dir=models, source=source, allow_pickle=True)
    assert not (tmp_path / "harm").exists()
    assert not (models / "dinov2-base").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02.", b"\x80\x02h\x05.", b"\x80\x02K\x05."])
def test_a_damaged_pickle_is_one_sentence(folder: Callable[..., Path], models: Path, content: bytes) -> None:
    source = folder(**{"pytorch_model.bin": content})
    with pytest.raises(UserError, match=r"^pytorch_model.bin is not loaded, since it is damaged .*: .+$") as said:
        fetch("dinov2-base", models_dir=models, source=source, allow_pickle=True)
    assert "\n" not in str(said.value)
    assert not (models / "dinov2-base").exists()


def test_a_pickle_for_which_there_is_too_little_memory_is_not_called_damaged_and_stays(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "state.bin", _use_new_zipfile_serialization=False)
    content = (tmp_path / "state.bin").read_bytes()
    three, many = b"K\x03N", b"\x8a\x08" + (2**55).to_bytes(8, "little") + b"N"
    assert content.count(three) == 1
    (tmp_path / "state.bin").write_bytes(content.replace(three, many))
    with pytest.raises(UserError, match=r"^state.bin needs more memory than there is"):
        convert_pickles(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["state.bin"]


def test_a_folder_is_copied_without_what_does_not_belong_to_the_model(
    hub: Hub, folder: Callable[..., Path], models: Path
) -> None:
    source = folder(
        **{"model.safetensors": hub.files["model.safetensors"], "optimizer.pt": b"x", "notes.md": b"", ".hidden": b""}
    )
    weights = fetch("dinov2-base", models_dir=models, source=source).weights
    assert {path.name for path in weights.folder.iterdir()} == {"config.json", "model.safetensors", MANIFEST}
    assert weights.commit is None
    assert not fetch("dinov2-base", models_dir=models, source=source).new
    assert not fetch("dinov2-base", models_dir=models).new
    assert hub.requests == []
    assert _left_over(models) == []


def test_a_copy_of_an_installed_model_keeps_its_commit_on_another_machine(hub: Hub, models: Path) -> None:
    here = fetch("dinov2-base", models_dir=models).weights
    there = fetch("dinov2-base", models_dir=models.parent / "there", source=here.folder).weights
    assert (there.commit, there.revision) == (here.commit, here.revision)
    (here.folder / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(UserError, match="no whole copy of dinov2-base"):
        fetch("dinov2-base", models_dir=models.parent / "third", source=here.folder)


def test_a_copy_of_another_model_of_the_same_kind_is_refused(hub: Hub, models: Path) -> None:
    base = fetch("dinov2-base", models_dir=models).weights
    there = models.parent / "there"
    with pytest.raises(UserError, match=f"^--from {base.folder} holds dinov2-base, not dinov2-small; "):
        fetch("dinov2-small", models_dir=there, source=base.folder)
    assert [path.name for path in there.iterdir() if path.suffix != ".lock"] == []
    (base.folder / MANIFEST).unlink()
    own = fetch("dinov2-small", models_dir=there, source=base.folder).weights
    assert own.commit is None


def test_damage_to_a_model_of_one_s_own_is_not_mended_with_another(
    hub: Hub, folder: Callable[..., Path], models: Path
) -> None:
    source = folder(**{"model.safetensors": hub.files["model.safetensors"]})
    fetch("dinov2-base", models_dir=models, source=source)
    (models / "dinov2-base" / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"damaged and came from .*given.*--from"):
        fetch("dinov2-base", models_dir=models)
    assert fetch("dinov2-base", models_dir=models, source=source).new
    assert verify("dinov2-base", models) == []


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"config.json": b'{"model_type": "bert"}', "model.safetensors": b"x"}, "type 'bert', but dinov2-base is"),
        ({"config.json": b"[]", "model.safetensors": b"x"}, "no JSON object"),
        ({}, "holds no weights"),
        ({"a.pt": b"x", "b.pt": b"x"}, "--allow-pickle"),
    ],
)
def test_a_folder_that_holds_another_thing_is_one_sentence(
    folder: Callable[..., Path], models: Path, files: dict[str, bytes], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        fetch("dinov2-base", models_dir=models, source=folder(**files))
    assert not (models / "dinov2-base").exists()


def test_several_pickles_of_unknown_use_are_refused(folder: Callable[..., Path], models: Path) -> None:
    with pytest.raises(UserError, match="several pickles"):
        fetch("dinov2-base", models_dir=models, source=folder(**{"a.pt": b"x", "b.pt": b"x"}), allow_pickle=True)


def test_a_folder_that_is_not_there_and_one_with_a_revision_are_one_sentence(models: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        fetch("dinov2-base", models_dir=models, source=tmp_path / "nowhere")
    with pytest.raises(UserError, match="either --from or --revision"):
        fetch("dinov2-base", models_dir=models, source=tmp_path, revision="main")


def test_a_place_that_cannot_be_written_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="set AL_MODELS"):
        fetch("dinov2-base", models_dir=tmp_path / "file" / "models")
