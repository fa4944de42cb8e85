"""What a training starts from, an architecture or weights that are already here, and the model that came of it."""

import importlib.util
import re
from pathlib import Path

from al_dagster.core.errors import UserError
from al_dagster.core.hashing import file_sha256
from al_dagster.training.tracking import Tracking

ARCHITECTURE = re.compile(r"(yolo(?:v?\d+))([a-z])\.ya?ml")


def check_model(model: str) -> str:
    """Check that a training can start from a model without downloading anything.

    Args:
        model: name of an architecture, such as ``yolo11n.yaml``, or path of a ``.pt`` or ``.yaml`` file.

    Returns:
        What stands for its content in a fingerprint: the SHA-256 of the file, or the architecture's name.

    Raises:
        UserError: it is neither a file nor an architecture that the installed library has.
    """
    path = Path(model)
    if path.suffix in (".pt", ".yaml", ".yml") and path.is_file():
        return file_sha256(path)
    if path.suffix == ".pt":
        raise UserError(
            f"model {model}: there is no such file, and weights are never downloaded; "
            "give the path of a local .pt file, or yolo11n.yaml to train from scratch"
        )
    named = ARCHITECTURE.fullmatch(model)
    if named is None or not _library_has(f"{named[1]}.yaml"):
        raise UserError(
            f"model {model!r} is neither a local .pt or .yaml file nor a known architecture: use yolo11n.yaml "
            "(or s, m, l, x for n), or the path of a file"
        )
    return model


def model_argument(model: str) -> str:
    """The model as the training process, which works in another folder, has to be given it."""
    path = Path(model)
    return str(path.resolve()) if path.is_file() else model


def trained_weights(tracking: Tracking, dataset: str) -> Path:
    """The weights of the newest model that was trained on a dataset, or on one version of it.

    Args:
        tracking: where models are registered; a database that is not there yet is not made.
        dataset: name of the dataset, or ``name@version``.

    Returns:
        The ``.pt`` file.

    Raises:
        UserError: there is no model of that dataset, or its weights are gone.
    """
    name, _, dataset_version = dataset.partition("@")
    version = tracking.newest_version(name, dataset_version or None)
    if version is None:
        raise UserError(f"no model was trained on a dataset {dataset} yet: `al train {dataset}` trains one")
    return tracking.weights_path(name, version)


def _library_has(architecture: str) -> bool:
    spec = importlib.util.find_spec("ultralytics")
    folders = spec.submodule_search_locations or [] if spec else []
    return any(next(Path(folder, "cfg", "models").rglob(architecture), None) for folder in folders)
