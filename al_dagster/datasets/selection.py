"""What a project has for a dataset: SQL in DuckDB over a copy of the registry.

Frames and objects come as Arrow tables, each in one scan; which of them go in is decided in ``datasets.choice``.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sqlalchemy.engine import make_url

from al_dagster.core.errors import UserError
from al_dagster.registry.database import Registry

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

# A source lies where the project saw it last among the paths that nothing else was seen at since, by any project.
_FRAMES = """
WITH files AS (
    SELECT id, project_id, file_path, source_id, status FROM registry.batch_files
    WHERE source_id IS NOT NULL OR status = 'quarantined' -- what cannot be read is other content too
),
newest AS (
    SELECT file_path, arg_max(coalesce(source_id, ''), id) AS source_id FROM files GROUP BY file_path
),
seen AS (
    SELECT f.source_id, f.file_path, f.id, n.source_id = f.source_id AS is_there
    FROM files AS f JOIN newest AS n ON n.file_path = f.file_path
    WHERE f.project_id = $project AND f.source_id IS NOT NULL
),
places AS (
    SELECT source_id, bool_or(is_there) AS is_there,
           coalesce(arg_max(file_path, id) FILTER (is_there), arg_max(file_path, id)) AS file_path
    FROM seen GROUP BY source_id
),
labels AS (
    SELECT frame_id, labelled_at IS NOT NULL AS is_labelled, CAST(is_unsure AS BOOLEAN) AS is_unsure, error,
           background_by IS NOT NULL AS is_marked, batch_key
    FROM registry.frame_labels WHERE project_id = $project
),
searches AS (
    SELECT batch_key, CAST(json_extract(parameters, '$.project.classes') AS VARCHAR) AS classes
    FROM registry.batches WHERE project_id = $project
),
of_project AS (
    SELECT source_id FROM files WHERE project_id = $project AND status = 'ready'
    UNION
    SELECT f.source_id FROM registry.frames AS f SEMI JOIN labels AS l ON l.frame_id = f.frame_id
)
SELECT coalesce(f.frame_id, '') AS frame_id, s.source_id, CAST(coalesce(f.frame_idx, 0) AS INTEGER) AS frame_idx,
       coalesce(p.file_path, s.file_path, '') AS file_path, s.sha256, s.perceptual_hash,
       coalesce(g.group_key, s.group_key) AS group_key,
       CAST(coalesce(f.width, s.width) AS INTEGER) AS width, CAST(coalesce(f.height, s.height) AS INTEGER) AS height,
       coalesce(json_extract_string(s.metadata, 'format'), '') AS image_format,
       coalesce(json_extract_string(s.metadata, 'plain'), '') = 'true' AS is_plain,
       coalesce(l.is_labelled, FALSE) AS is_labelled, coalesce(l.is_unsure, FALSE) AS is_unsure, l.error,
       coalesce(l.is_marked, FALSE) AS is_marked, b.classes AS searched_for,
       NOT coalesce(p.is_there, TRUE) AS is_replaced
FROM of_project AS o
JOIN registry.sources AS s ON s.source_id = o.source_id AND s.source_type = 'image'
LEFT JOIN registry.frames AS f ON f.source_id = o.source_id
LEFT JOIN labels AS l ON l.frame_id = f.frame_id
LEFT JOIN searches AS b ON b.batch_key = l.batch_key
LEFT JOIN registry.source_groups AS g ON g.project_id = $project AND g.source_id = o.source_id
LEFT JOIN places AS p ON p.source_id = o.source_id
ORDER BY s.created_at, s.source_id, f.frame_idx
"""

_OBJECTS = """
SELECT object_id, frame_id, CAST(category_id AS INTEGER) AS category_id, bbox_x, bbox_y, bbox_w, bbox_h,
       CAST(polygon AS VARCHAR) AS polygon, mask_path, mask_rle AS rle, area, confidence,
       calibrated_confidence, CAST(is_validated AS BOOLEAN) AS is_validated, detection_model
FROM registry.objects
WHERE project_id = $project AND state = 'active' AND category_id IS NOT NULL
"""

_DELETED = """
SELECT DISTINCT frame_id, CAST(category_id AS INTEGER) AS category_id
FROM registry.objects
WHERE project_id = $project AND state = 'deleted' AND category_id IS NOT NULL
"""

_PARSED = """SELECT from_json(polygon, '[["DOUBLE"]]') AS polygon FROM rows"""

_POLYGONS_A_BATCH = 50_000

_CATEGORIES = "SELECT CAST(category_id AS INTEGER), name FROM registry.categories"


@dataclass(frozen=True)
class Pool:
    """What a project has.

    Args:
        frames: a row a frame of its images, in the order in which they were registered, then of the frames. An image
            whose frames are not known yet has one row with an empty ``frame_id``. ``file_path`` is the project's own
            newest path of the content; ``is_replaced`` says that other content was seen since at all of them.
            ``searched_for`` lists as JSON the classes that the last labelling of the frame's batch was asked for; it is
            empty where that is not known.
        objects: a row an active object, in no order; ``polygon`` is JSON text.
        deleted: frame and category of objects that people deleted, each pair once; empty unless asked for.
        categories: names by id.
    """

    frames: "pa.Table"
    objects: "pa.Table"
    deleted: "pa.Table"
    categories: dict[int, str]

    @property
    def used_categories(self) -> list[str]:
        """The categories of the active objects, by name."""
        return sorted(self.categories[category_id] for category_id in self.objects["category_id"].unique().to_pylist())


def read_pool(registry: Registry, project: str, *, with_deleted: bool = False) -> Pool:
    """Read what a project has, in one state of the registry.

    Args:
        registry: the registry.
        project: the project.
        with_deleted: read what people deleted too, which takes another scan.

    Raises:
        UserError: the registry is not a SQLite file.
    """
    with attach(registry.url) as connection:
        # Rows are sorted where they are frozen.
        connection.execute("SET preserve_insertion_order = false")
        frames, objects, deleted = (
            connection.execute(statement, {"project": project}).to_arrow_table()
            for statement in (_FRAMES, _OBJECTS, _DELETED if with_deleted else f"{_DELETED} LIMIT 0")
        )
        return Pool(frames, objects, deleted, dict(connection.execute(_CATEGORIES).fetchall()))


def parse_polygons(texts: "pa.ChunkedArray") -> "pa.ChunkedArray":
    """Polygons, which are JSON text in the registry, as rings of x, y, x, y, …: lists of lists of numbers."""
    import duckdb
    import pyarrow as pa

    # DuckDB parses the batches of a table side by side.
    batches = pa.table({"polygon": texts}).to_batches(max_chunksize=_POLYGONS_A_BATCH)
    rows = pa.Table.from_batches(batches, schema=pa.schema([("polygon", pa.string())]))
    with duckdb.connect() as connection:
        connection.register("rows", rows)
        return connection.execute(_PARSED).to_arrow_table()["polygon"]


@contextmanager
def attach(registry_url: str) -> "Iterator[duckdb.DuckDBPyConnection]":
    """A DuckDB connection in which the registry's tables are ``registry.objects`` and so on, as they are now.

    DuckDB reads a copy, made while others may write: it brings a SQLite of its own, and two in one process do not see
    each other's locks, so that on the file itself one would pull the shared memory from under the other. The copy is
    also one state of the registry, however many statements read it and however parallel.

    Raises:
        UserError: the registry is not a SQLite file.
    """
    import duckdb

    path = _file_of(registry_url)
    with TemporaryDirectory(prefix="al-registry-") as folder:
        copy = Path(folder) / "registry.db"
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
            target.execute("PRAGMA synchronous = OFF")
            source.backup(target)
            target.execute("PRAGMA journal_mode = DELETE")
        with duckdb.connect() as connection:
            connection.execute(f"LOAD {_quoted(_extension('sqlite_scanner'))}")
            connection.execute(f"ATTACH {_quoted(str(copy))} AS registry (TYPE sqlite, READ_ONLY)")
            yield connection


def _file_of(registry_url: str) -> str:
    url = make_url(registry_url)
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        raise UserError(
            f"the registry {url.render_as_string()} cannot be selected from: datasets need a registry in a SQLite "
            "file; set AL_REGISTRY_URL to sqlite:///PATH"
        )
    return url.database


def _extension(name: str) -> str:
    """The file of a DuckDB extension that was installed as a wheel: loading it from there needs no download."""
    import duckdb

    return str(files(f"duckdb_extension_{name}") / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
