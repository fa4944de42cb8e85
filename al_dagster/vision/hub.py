"""The model hub: what a repository holds at a commit, and its files, checked against what the hub says of them."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from contextvars import copy_context
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from al_dagster.core.errors import UserError
from al_dagster.core.hashing import file_sha256
from al_dagster.vision.weights import require_foundation_extra

ANOTHER_WAY = "`--from FOLDER` takes a copy made on another machine"
INTERRUPTED = "the same command again goes on with the files that are whole"


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository.

    Args:
        name: its path in the repository.
        size: bytes.
        sha256: of its content where the hub says so, which it does of large files.
        blob_id: Git's hash of its content, for the other files.
    """

    name: str
    size: int
    sha256: str | None
    blob_id: str | None

    def is_at(self, path: Path) -> bool:
        """Whether a local file has exactly this content."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        if self.sha256 is not None:
            return file_sha256(path) == self.sha256
        return self.blob_id is None or _blob_id(path) == self.blob_id


@dataclass(frozen=True)
class Listing:
    """What a repository holds at a commit."""

    repository: str
    commit: str
    endpoint: str
    files: tuple[RemoteFile, ...]


def list_repository(repository: str, revision: str) -> Listing:
    """What a repository holds.

    Args:
        repository: such as ``facebook/dinov2-base``.
        revision: a commit, branch or tag.

    Raises:
        UserError: there is no network, no such repository or revision, it needs a token, or the hub's client is
            not installed.
    """
    require_foundation_extra()
    from huggingface_hub import HfApi

    api = HfApi()
    with _told(repository, revision, api.endpoint):
        info = api.model_info(repository, revision=revision, files_metadata=True)
    files = (
        RemoteFile(found.rfilename, found.size or 0, None if found.lfs is None else found.lfs.sha256, found.blob_id)
        for found in info.siblings or ()
    )
    if info.sha is None:
        raise UserError(f"the hub at {api.endpoint} names no commit for {repository} {revision}; is it a model hub?")
    return Listing(repository, info.sha, api.endpoint, tuple(sorted(files, key=lambda file: file.name)))


def download(listing: Listing, file: RemoteFile, folder: Path, downloaded: Callable[[int], None]) -> None:
    """Bring one file into a folder; one that is there whole is not fetched again.

    Args:
        listing: the repository at its commit.
        file: one of its files.
        folder: where it goes.
        downloaded: called with the bytes since it was last called.

    Raises:
        UserError: what ``list_repository`` raises, or the download was cut off or damaged.
        OSError: such as that the disk is full.
    """
    path = folder / file.name
    if file.is_at(path):
        downloaded(file.size)
        return
    from huggingface_hub import hf_hub_download

    path.unlink(missing_ok=True)
    with _told(listing.repository, listing.commit, listing.endpoint):
        hf_hub_download(
            listing.repository,
            file.name,
            revision=listing.commit,
            local_dir=folder,
            endpoint=listing.endpoint,
            tqdm_class=_bar(downloaded),
        )
    if not file.is_at(path):
        path.unlink(missing_ok=True)
        raise UserError(
            f"{file.name} of {listing.repository} arrived with other content than the hub records; {INTERRUPTED}"
        )


def _blob_id(path: Path) -> str:
    """Git's name of a file's content: SHA-1 of ``blob``, its size, a zero byte and the content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _bar(downloaded: Callable[[int], None]) -> type:
    """A progress bar class for the hub's client that shows nothing and passes the bytes on."""
    from huggingface_hub.utils.tqdm import tqdm

    context = copy_context()

    class Bar(tqdm):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            # The client may call from a thread of its own, which has no listeners.
            context.copy().run(downloaded, int(n or 0))

        def update_transfer(self, n: float | None = 1) -> None:
            """Bytes on the wire, which the client counts beside those of the file."""

    return Bar


@contextlib.contextmanager
def _told(repository: str, revision: str, endpoint: str) -> Iterator[None]:
    """Say in one sentence why the hub could not be used."""
    from huggingface_hub import errors

    try:
        yield
    except UserError:
        raise
    except errors.OfflineModeIsEnabled:
        raise UserError(
            f"{repository} cannot be fetched while HF_HUB_OFFLINE is set; unset it, or {ANOTHER_WAY}"
        ) from None
    except errors.GatedRepoError:
        raise UserError(
            f"{repository} is gated: accept its terms on its page at {endpoint}, then set HF_TOKEN to a token of yours"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{repository} has no revision {revision} at {endpoint}; give another by --revision") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{endpoint} has no repository {repository}, or it is private, which needs a valid token in HF_TOKEN"
        ) from None
    except errors.HfHubHTTPError as error:
        if error.response.status_code == HTTPStatus.UNAUTHORIZED:
            raise UserError(
                f"{endpoint} refuses the token in HF_TOKEN, or that of `hf auth login`, for {repository}; renew it, or "
                "remove it where none is needed"
            ) from None
        raise UserError(
            f"{endpoint} answered {error.response.status_code} for {repository}; try later, or {ANOTHER_WAY}"
        ) from None
    except Exception as error:
        raise _reason(error, repository, endpoint) from error


def _reason(error: Exception, repository: str, endpoint: str) -> Exception:
    """The error to raise for one that is not the hub's own answer: itself, where the user can do nothing about it."""
    from huggingface_hub import errors

    # HfHubHTTPError derives from the HTTP library's own base of errors; which library that is depends on the release.
    transport = errors.HfHubHTTPError.__bases__[0]
    if isinstance(error, (transport, errors.LocalEntryNotFoundError, ConnectionError, TimeoutError)):
        return UserError(f"{endpoint} cannot be reached for {repository}; check the network, or {ANOTHER_WAY}")
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return UserError(f"the download of {repository} was cut off; {INTERRUPTED}")
    return error
