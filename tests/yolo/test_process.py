import os
import sys
from pathlib import Path

import pytest

from al_dagster.core.errors import UserError
from al_dagster.yolo.errors import YoloError
from al_dagster.yolo.predict import predict
from al_dagster.yolo.process import require_train_extra, worker_environment


def test_secrets_and_other_libraries_settings_stay_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ULTRALYTICS_API_KEY", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "RANK", "YOLO_CONFIG_DIR"):
        monkeypatch.setenv(name, "from outside")
    environment = worker_environment(tmp_path)
    assert "from outside" not in environment.values()
    assert environment["YOLO_OFFLINE"] == "1"
    assert environment["PATH"] == os.environ["PATH"]


def test_without_the_extra_training_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(UserError, match=r"pip install 'al_dagster\[train\]'"):
        require_train_extra()


def test_weights_that_are_none_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"broken\.pt cannot be read as a YOLO model"):
        predict(tmp_path / "broken.pt", [], tmp_path, imgsz=64, device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.pt"]


def test_a_failed_process_shows_its_last_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os; os.write(2, b'the last line\\n'); os._exit(7)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(YoloError, match=r"(?s)predict ended with status 7; its last lines:.*the last line"):
        predict(tmp_path / "best.pt", [], tmp_path, imgsz=64)


def test_a_process_killed_by_the_system_for_its_memory_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(UserError, match="ran out of memory: lower 'batch' or 'imgsz'"):
        predict(tmp_path / "best.pt", [], tmp_path, imgsz=64)
