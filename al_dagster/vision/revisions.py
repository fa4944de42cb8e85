"""Revisions of models that are code and parameters instead of weights."""

import cv2

from al_dagster.core.fingerprints import fingerprint

REVISION_LENGTH = 8


def code_revision(version: str, opencv: object = cv2.__version__, **parameters: object) -> str:
    """8 hex characters that change with the code version, the parameters or the OpenCV release.

    Args:
        version: raised by hand when the method changes and the same parameters would give other results.
        opencv: the OpenCV release.
        parameters: JSON-serialisable values that the results depend on.
    """
    return fingerprint(version=version, opencv=opencv, parameters=parameters)[:REVISION_LENGTH]
