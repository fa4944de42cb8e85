"""MLflow: runs, their inputs and files, and the model registry.

Everything goes through one client with its own address; nothing of MLflow's global state is used.
"""

import json
import os
import platform
import re
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from filelock import BaseFileLock, FileLock

from al_dagster.core.errors import UserError
from al_dagster.core.files import sync
from al_dagster.core.hashing import file_sha256
from al_dagster.training.dataset import ExportedDataset

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

WEIGHTS_FOLDER = "weights"
WEIGHTS_FILE = "best.pt"
FINGERPRINT_TAG = "al.fingerprint"
DATASET_TAG = "al.dataset_id"
VERSION_TAG = "al.dataset_version"
HOST_TAG = "al.host"
WEIGHTS_TAG = "al.weights_sha256"
DIGEST_LENGTH = 36  # the longest digest that MLflow stores


class RegisteredModel(NamedTuple):
    """A version of a model in the registry.

    Args:
        name: the registered model.
        version: its version, a number from 1.
    """

    name: str
    version: str


class Tracking:
    """Records trainings in MLflow and finds them again.

    Args:
        uri: tracking and registry address, such as ``sqlite:////data/mlflow.db``.
        artifacts_dir: folder in which new experiments keep their files.
    """

    def __init__(self, uri: str, artifacts_dir: Path) -> None:
        self.uri = uri
        self.artifacts_dir = artifacts_dir

    @property
    def address(self) -> str:
        """The tracking address as it may be shown: without a password."""
        return re.sub(r"(?<=://)([^/@:]*):[^/@]*@", r"\1:***@", self.uri)

    @cached_property
    def client(self) -> "MlflowClient":
        """The MLflow client, opened at first use; the first process to open a new database creates its tables."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("DO_NOT_TRACK", "true")
        from mlflow import MlflowClient

        self.artifacts_dir.mkdir(parents=True, exist_ok=True)
        if not self.uri.startswith("sqlite:///"):
            return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        database = Path(self.uri.removeprefix("sqlite:///"))
        database.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{database}.lock"):
            client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            client.search_experiments(max_results=1)
        return client

    def lock(self, fingerprint: str) -> BaseFileLock:
        """A lock that one process of this machine holds while it trains the model of a fingerprint."""
        folder = self.artifacts_dir / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{fingerprint}.lock")

    def start_run(
        self, dataset: ExportedDataset, *, params: Mapping[str, object], tags: Mapping[str, str], run_name: str
    ) -> str:
        """Start a run in the experiment of a dataset, with the dataset as its input, and return the run's id.

        Args:
            dataset: what is trained on.
            params: training parameters, logged as text.
            tags: the run's tags; those of the dataset are added.
            run_name: the name that MLflow shows.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        standing = {
            DATASET_TAG: dataset.dataset_id,
            "al.dataset_name": dataset.name,
            VERSION_TAG: dataset.version,
            "al.content_hash": dataset.content_hash,
            HOST_TAG: platform.node(),
        }
        run = self.client.create_run(self._experiment(dataset.name), tags={**standing, **tags}, run_name=run_name)
        run_id: str = run.info.run_id
        self.client.log_batch(run_id, params=[Param(name, str(value)) for name, value in params.items()])
        frozen = Dataset(
            dataset.name,
            dataset.content_hash[:DIGEST_LENGTH],
            source_type="local",
            source=json.dumps({"uri": str(dataset.path.resolve())}),
            profile=json.dumps({f"{split}_images": count for split, count in dataset.splits.items()}),
        )
        labels = {"mlflow.data.context": "training", "dataset_id": dataset.dataset_id, "version": dataset.version}
        self.client.log_inputs(run_id, [DatasetInput(frozen, [InputTag(key, text) for key, text in labels.items()])])
        return run_id

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """Add values to the curves of a run."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [Metric(name, float(value), now, step) for name, value in metrics.items()]
        self.client.log_batch(run_id, metrics=points)

    def metrics(self, run_id: str) -> dict[str, float]:
        """The last value of each of a run's metrics."""
        return dict(self.client.get_run(run_id).data.metrics)

    def log_file(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Copy a file into a folder of the run's artifacts."""
        self.client.log_artifact(run_id, str(path), folder)

    def log_weights(self, run_id: str, path: Path) -> None:
        """Keep the weights that a run made, with their SHA-256 as a tag; on this machine they have reached the disk."""
        self.tag(run_id, {WEIGHTS_TAG: file_sha256(path)})
        self.log_file(run_id, path, WEIGHTS_FOLDER)
        kept = self.run_weights(run_id)
        if kept is not None:
            sync(kept)
            sync(kept.parent)

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def end_run(self, run_id: str, status: str = "FINISHED") -> None:
        """Close a run as ``FINISHED``, ``FAILED`` or ``KILLED``."""
        self.client.set_terminated(run_id, status)

    def finished_run(self, fingerprint: str) -> str | None:
        """The newest finished run with this fingerprint whose weights can still be read."""
        for run in self._search(f"tags.`{FINGERPRINT_TAG}` = '{fingerprint}' and attributes.status = 'FINISHED'"):
            run_id = str(run.info.run_id)
            if self.run_weights(run_id) is not None:
                return run_id
        return None

    def close_abandoned(self, fingerprint: str) -> list[str]:
        """Close as ``KILLED`` the runs of this machine with this fingerprint, and return their ids.

        The caller holds the lock of the fingerprint: no process of this machine can be at work on it.
        """
        runs = self._search(f"tags.`{FINGERPRINT_TAG}` = '{fingerprint}' and attributes.status = 'RUNNING'")
        abandoned = [run.info.run_id for run in runs if run.data.tags.get(HOST_TAG) == platform.node()]
        for run_id in abandoned:
            self.client.set_terminated(run_id, "KILLED")
        return abandoned

    def register(self, run_id: str, name: str) -> RegisteredModel:
        """Make a run's weights a version of a registered model; a run that has one keeps it."""
        from mlflow.exceptions import MlflowException

        standing = self.registered(run_id)
        if standing is not None:
            return standing
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        run = self.client.get_run(run_id)
        tags = {DATASET_TAG: run.data.tags[DATASET_TAG]}
        source = f"{run.info.artifact_uri}/{WEIGHTS_FOLDER}"
        version = self.client.create_model_version(name, source, run_id, tags=tags)
        return RegisteredModel(name, str(version.version))

    def registered(self, run_id: str) -> RegisteredModel | None:
        """The model version that a run's weights are registered as."""
        versions = self.client.search_model_versions(f"run_id = '{run_id}'")
        if not versions:
            return None
        newest = max(versions, key=lambda version: int(version.version))
        return RegisteredModel(newest.name, str(newest.version))

    def newest_version(self, model_name: str, dataset_version: str | None = None) -> str | None:
        """The newest version of a registered model; None if there is none, or no database yet, which is not made.

        Args:
            model_name: its name, that of the dataset.
            dataset_version: only models that were trained on this version of the dataset.
        """
        database = self.uri.removeprefix("sqlite:///")
        if (database != self.uri and not Path(database).exists()) or "'" in model_name:
            return None
        for model in self.client.search_model_versions(f"name = '{model_name}'", order_by=["version_number DESC"]):
            tags = self.client.get_run(model.run_id).data.tags if dataset_version and model.run_id else {}
            if dataset_version is None or tags.get(VERSION_TAG) == dataset_version:
                return str(model.version)
        return None

    def weights_path(self, model_name: str, version: str) -> Path:
        """The weights of a registered model, on this machine.

        Raises:
            UserError: there is no such model version, or its file is gone or damaged.
        """
        found = self._model_version(model_name, version)
        path = self._download(f"{found.source}/{WEIGHTS_FILE}")
        if path is None or (found.run_id and not self._is_intact(path, found.run_id)):
            raise UserError(
                f"the weights of {model_name} version {version} cannot be read from {found.source}, or are damaged: "
                f"`al train {model_name}` trains it again"
            )
        return path

    def models(self) -> list[RegisteredModel]:
        """The versions of all registered models, newest first."""
        found = self.client.search_model_versions(order_by=["last_updated_timestamp DESC"])
        return [RegisteredModel(version.name, str(version.version)) for version in found]

    def run_of_model(self, model_name: str, version: str) -> str:
        """The id of the run that trained a registered model.

        Raises:
            UserError: there is no such model version.
        """
        return str(self._model_version(model_name, version).run_id)

    def run_weights(self, run_id: str) -> Path | None:
        """The weights that a run made, on this machine; None if it made none or they are gone or damaged."""
        path = self._download(f"{self.client.get_run(run_id).info.artifact_uri}/{WEIGHTS_FOLDER}/{WEIGHTS_FILE}")
        return path if path is not None and self._is_intact(path, run_id) else None

    def _is_intact(self, weights: Path, run_id: str) -> bool:
        """Whether weights are those that a run made; of those without a recorded hash, empty ones are damaged."""
        recorded = self.client.get_run(run_id).data.tags.get(WEIGHTS_TAG)
        return weights.stat().st_size > 0 if recorded is None else file_sha256(weights) == recorded

    def runs_of_dataset(self, dataset_id: str) -> list[dict[str, Any]]:
        """What ``run_lineage`` says of each run on a dataset, newest first."""
        return [self._describe(run) for run in self._search(f"tags.`{DATASET_TAG}` = '{dataset_id}'")]

    def run_lineage(self, run_id: str) -> dict[str, Any]:
        """What a run was made from and what came of it: dataset, parameters, metrics, tags, model version.

        Raises:
            UserError: there is no such run.
        """
        from mlflow.exceptions import MlflowException

        try:
            run = self.client.get_run(run_id)
        except MlflowException:
            raise UserError(f"there is no MLflow run {run_id} at {self.address}") from None
        return self._describe(run)

    def _describe(self, run: "Run") -> dict[str, Any]:
        model = self.registered(run.info.run_id)
        return {
            "run_id": run.info.run_id,
            "status": run.info.status,
            "started_ms": run.info.start_time,
            "ended_ms": run.info.end_time,
            "tags": {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")},
            "params": dict(run.data.params),
            "metrics": dict(run.data.metrics),
            "datasets": [
                {"name": item.dataset.name, "digest": item.dataset.digest, "source": item.dataset.source}
                for item in (run.inputs.dataset_inputs if run.inputs else ())
            ],
            "model_name": model.name if model else None,
            "model_version": model.version if model else None,
            "artifacts": run.info.artifact_uri,
        }

    def _model_version(self, name: str, version: str) -> "ModelVersion":
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_model_version(name, version)
        except MlflowException:
            raise UserError(f"the model registry at {self.address} has no version {version} of {name}") from None

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        standing = self.client.get_experiment_by_name(name)
        if standing is not None:
            return str(standing.experiment_id)
        try:
            # A tracking server has an artifact store of its own.
            served = self.uri.startswith(("http://", "https://"))
            folder = None if served else (self.artifacts_dir / name).absolute().as_uri()
            return str(self.client.create_experiment(name, folder))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return self._experiment(name)

    def _search(self, condition: str) -> "Sequence[Run]":
        experiments = [item.experiment_id for item in self.client.search_experiments()]
        return list(self.client.search_runs(experiments, condition, order_by=["attributes.start_time DESC"]))

    def _download(self, uri: str) -> Path | None:
        """A file of the artifact store as a local path: the file itself if the store is a folder."""
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        try:
            path = Path(download_artifacts(artifact_uri=uri, tracking_uri=self.uri))
        except (MlflowException, OSError):
            return None
        return path if path.is_file() else None
