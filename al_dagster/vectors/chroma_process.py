"""The process that alone imports Chroma: it answers the calls of one parent, until the parent is gone.

Chroma holds Python's interpreter while it is at work, and after a failed write some of its calls never return: only
from another process can a call be given up. The lock of an index is held here, so that it lasts as long as the index
is open, whatever becomes of the parent.
"""

import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

# In clear clusters the recall@10 is 1.0 whatever these are. Of barely clustered vectors (20,000, 768-d) Chroma's search
# effort of 100 finds 0.73, 300 finds 0.83 and 500 finds 0.89, for some 3 ms more a query; a construction effort of 60
# instead of 100 costs less than 0.005 of that and writes a third faster.
INDEX = {"space": "cosine", "max_neighbors": 16, "ef_construction": 60, "ef_search": 500}


class Indexes:
    """The open indexes by their folders; a folder is opened once and closed when nobody needs it any more."""

    def __init__(self) -> None:
        self._locks: dict[str, FileLock] = {}
        self._clients: dict[str, Any] = {}
        self._collections: dict[tuple[str, str], Any] = {}
        self._users: dict[str, int] = {}

    def open(self, path: str) -> bool:
        """Take the lock of a folder and open its index; False if another process has the lock."""
        if not self._users.get(path):
            lock = FileLock(lock_path(Path(path)))
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return False
            try:
                self._clients[path] = _open_client(path)
            except BaseException:
                lock.release()
                raise
            self._locks[path] = lock
        self._users[path] = self._users.get(path, 0) + 1
        return True

    def collection(self, path: str, name: str, dimension: int) -> tuple[int | None, int]:
        """Open a collection, made if it is missing; the dimension that it has, and how many rows a call takes."""
        client = self._clients[path]
        collection = client.get_or_create_collection(
            name, configuration={"hnsw": INDEX}, embedding_function=None, metadata={"dimension": dimension}
        )
        self._collections[path, name] = collection
        return (collection.metadata or {}).get("dimension"), int(client.get_max_batch_size())

    def call(self, path: str, name: str, method: str, arguments: dict[str, Any]) -> Any:
        """Call a method of a collection."""
        return getattr(self._collections[path, name], method)(**arguments)

    def close(self, path: str) -> None:
        """Close the index of a folder and release its lock, if this was its last user."""
        self._users[path] -= 1
        if self._users[path]:
            return
        for key in [key for key in self._collections if key[0] == path]:
            del self._collections[key]
        try:
            self._clients.pop(path).close()
        finally:
            self._locks.pop(path).release()


def lock_path(path: Path) -> Path:
    """The lock file of an index: beside its folder."""
    return path.with_name(path.name + ".lock")


def _open_client(path: str) -> Any:
    import chromadb
    from chromadb.config import Settings

    return chromadb.PersistentClient(path, settings=Settings(anonymized_telemetry=False))


def main() -> None:
    """Answer calls, each a method's name and its arguments, with whether it succeeded and its value or error."""
    indexes = Indexes()
    with Connection(int(sys.argv[1])) as parent:
        while True:
            try:
                name, arguments = parent.recv()
            except EOFError:
                return
            try:
                answer = (True, getattr(indexes, name)(*arguments))
            except Exception as error:
                answer = (False, f"{type(error).__name__}: {error}")
            try:
                parent.send(answer)
            except BrokenPipeError:
                return


if __name__ == "__main__":
    main()
