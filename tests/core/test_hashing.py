import hashlib
from pathlib import Path

import pytest

from al_dagster.core.hashing import CHUNK_BYTES, file_sha256


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_the_hash_is_of_every_byte_with_and_without_progress(tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    (file := tmp_path / "file").write_bytes(content[:size])
    steps: list[int] = []
    expected = hashlib.sha256(content[:size]).hexdigest()
    assert file_sha256(file) == file_sha256(file, steps.append) == expected
    assert sum(steps) == size
    assert max(steps, default=0) <= CHUNK_BYTES


def test_a_file_that_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        file_sha256(tmp_path / "nothing")
