"""What a project has for a dataset, as Arrow tables; which of it goes in is decided in ``datasets.choice``."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from al_dagster.datasets.snapshot import snapshot
from al_dagster.registry.database import Registry

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_PARTS = {
    "batch_files": (
        "id INTEGER, project_id TEXT, file_path TEXT, source_id TEXT, status TEXT",
        # A file that was gone or unreadable when it was looked at last holds nothing any more.
        "SELECT id, project_id, file_path, source_id, status FROM main.batch_files"
        " WHERE source_id IS NOT NULL OR status = 'quarantined'",
    ),
    "frames": (
        "frame_id TEXT, source_id TEXT, frame_idx INTEGER, width INTEGER, height INTEGER",
        "SELECT frame_id, source_id, frame_idx, width, height FROM main.frames",
    ),
    "frame_labels": (
        "frame_id TEXT, is_labelled BOOLEAN, is_unsure BOOLEAN, error TEXT, is_marked BOOLEAN, classes TEXT",
        "SELECT frame_id, labelled_at IS NOT NULL, is_unsure, error, background_by IS NOT NULL, classes"
        " FROM main.frame_labels WHERE project_id = :project",
    ),
    "source_groups": (
        "source_id TEXT, group_key TEXT",
        "SELECT source_id, group_key FROM main.source_groups WHERE project_id = :project",
    ),
    "source_ties": (
        "source_id TEXT, neighbour_id TEXT",
        "SELECT source_id, neighbour_id FROM main.source_ties WHERE project_id = :project",
    ),
    "sources": (
        "source_id TEXT, file_path TEXT, sha256 TEXT, perceptual_hash TEXT, group_key TEXT, width INTEGER,"
        " height INTEGER, image_format TEXT, is_plain BOOLEAN, created_at TEXT",
        "SELECT source_id, file_path, sha256, perceptual_hash, group_key, width, height,"
        " coalesce(json_extract(metadata, '$.format'), ''), coalesce(json_extract(metadata, '$.plain'), 0), created_at"
        " FROM main.sources WHERE source_type = 'image'",
    ),
    "categories": ("category_id INTEGER, name TEXT", "SELECT category_id, name FROM main.categories"),
    "objects": (
        "object_id TEXT, frame_id TEXT, category_id INTEGER, bbox_x REAL, bbox_y REAL, bbox_w REAL, bbox_h REAL,"
        " mask_path TEXT, rle TEXT, area REAL, confidence REAL, calibrated_confidence REAL, is_validated BOOLEAN,"
        " detection_model TEXT",
        # Run lengths say all of a mask; the file is needed of masks that were kept before there were any.
        "SELECT object_id, frame_id, category_id, bbox_x, bbox_y, bbox_w, bbox_h,"
        " CASE WHEN mask_rle IS NULL THEN mask_path END, mask_rle, area, confidence, calibrated_confidence,"
        " is_validated, detection_model"
        " FROM main.objects WHERE project_id = :project AND state = 'active' AND category_id IS NOT NULL",
    ),
    "deleted": (
        "frame_id TEXT, category_id INTEGER",
        "SELECT DISTINCT frame_id, category_id FROM main.objects"
        " WHERE project_id = :project AND state = 'deleted' AND category_id IS NOT NULL",
    ),
}
_POLYGONS = {
    "polygons": (
        "object_id TEXT, polygon TEXT",
        "SELECT object_id, polygon FROM main.objects"
        " WHERE project_id = :project AND state = 'active' AND polygon IS NOT NULL",
    )
}

# A source lies where the project saw it last among the paths that nothing else was seen at since, by any project.
_FRAMES = """
WITH newest AS (
    SELECT file_path, arg_max(CASE status WHEN 'quarantined' THEN '' ELSE source_id END, id) AS source_id
    FROM registry.batch_files GROUP BY file_path
),
seen AS (
    SELECT f.source_id, f.file_path, f.id, n.source_id = f.source_id AS is_there
    FROM registry.batch_files AS f JOIN newest AS n ON n.file_path = f.file_path
    WHERE f.project_id = $project AND f.source_id IS NOT NULL
),
places AS (
    SELECT source_id, bool_or(is_there) AS is_there,
           coalesce(arg_max(file_path, id) FILTER (is_there), arg_max(file_path, id)) AS file_path
    FROM seen GROUP BY source_id
),
of_project AS (
    SELECT source_id FROM registry.batch_files WHERE project_id = $project AND status = 'ready'
    UNION
    SELECT f.source_id FROM registry.frames AS f SEMI JOIN registry.frame_labels AS l ON l.frame_id = f.frame_id
)
SELECT coalesce(f.frame_id, '') AS frame_id, s.source_id, CAST(coalesce(f.frame_idx, 0) AS INTEGER) AS frame_idx,
       coalesce(p.file_path, s.file_path, '') AS file_path, s.sha256, s.perceptual_hash,
       coalesce(g.group_key, s.group_key) AS group_key,
       CAST(coalesce(f.width, s.width) AS INTEGER) AS width, CAST(coalesce(f.height, s.height) AS INTEGER) AS height,
       s.image_format, CAST(s.is_plain AS BOOLEAN) AS is_plain,
       coalesce(CAST(l.is_labelled AS BOOLEAN), FALSE) AS is_labelled,
       coalesce(CAST(l.is_unsure AS BOOLEAN), FALSE) AS is_unsure, l.error,
       coalesce(CAST(l.is_marked AS BOOLEAN), FALSE) AS is_marked, l.classes AS searched_for,
       NOT coalesce(p.is_there, TRUE) AS is_replaced
FROM of_project AS o
JOIN registry.sources AS s ON s.source_id = o.source_id
LEFT JOIN registry.frames AS f ON f.source_id = o.source_id
LEFT JOIN registry.frame_labels AS l ON l.frame_id = f.frame_id
LEFT JOIN registry.source_groups AS g ON g.source_id = o.source_id
LEFT JOIN places AS p ON p.source_id = o.source_id
ORDER BY s.created_at, s.source_id, f.frame_idx
"""

_OBJECTS = """
SELECT * REPLACE (CAST(category_id AS INTEGER) AS category_id, CAST(is_validated AS BOOLEAN) AS is_validated)
FROM registry.objects
"""

_DELETED = "SELECT frame_id, CAST(category_id AS INTEGER) AS category_id FROM registry.deleted"

_TIES = "SELECT source_id, neighbour_id FROM registry.source_ties ORDER BY ALL"

_CATEGORIES = "SELECT CAST(category_id AS INTEGER), name FROM registry.categories"

_PARSED = """
SELECT from_json(p.polygon, '[["DOUBLE"]]') AS polygon
FROM wanted AS w LEFT JOIN registry.polygons AS p ON p.object_id = w.object_id
ORDER BY w.place
"""


@dataclass(frozen=True)
class Pool:
    """What a project has.

    Args:
        frames: a row a frame of its images, in the order in which they were registered, then of the frames. An image
            whose frames are not known yet has one row with an empty ``frame_id``. ``file_path`` is the project's own
            newest path of the content; ``is_replaced`` says that other content was seen since at all of them.
            ``searched_for`` lists as JSON the classes that the frame was searched for when it was labelled last; it is
            empty where that is not known.
        objects: a row an active object, in no order; ``mask_path`` where the mask is not known as run lengths.
        deleted: frame and category of objects that people deleted, each pair once.
        ties: ids of sources that belong together although their groups differ.
        categories: names by id.
    """

    frames: "pa.Table"
    objects: "pa.Table"
    deleted: "pa.Table"
    ties: list[tuple[str, str]]
    categories: dict[int, str]

    @property
    def used_categories(self) -> list[str]:
        """The categories of the active objects, by name."""
        return sorted(self.categories[category_id] for category_id in self.objects["category_id"].unique().to_pylist())


@contextmanager
def open_pool(
    registry: Registry, project: str, *, with_polygons: bool = False
) -> "Iterator[duckdb.DuckDBPyConnection]":
    """One state of what a project has, to be read by `read_pool` and `read_polygons`.

    Args:
        registry: the registry.
        project: the project.
        with_polygons: whether polygons will be read, which are most of the bytes.

    Raises:
        UserError: the registry is not a SQLite file.
    """
    parts = _PARTS | _POLYGONS if with_polygons else _PARTS
    with snapshot(registry.url, project, parts) as connection:
        yield connection


def read_pool(connection: "duckdb.DuckDBPyConnection", project: str) -> Pool:
    """Read what a project has.

    Args:
        connection: what ``open_pool`` gave for the project.
        project: the project.
    """
    # Rows are sorted where they are frozen.
    connection.execute("SET preserve_insertion_order = false")
    return Pool(
        frames=connection.execute(_FRAMES, {"project": project}).to_arrow_table(),
        objects=connection.execute(_OBJECTS).to_arrow_table(),
        deleted=connection.execute(_DELETED).to_arrow_table(),
        ties=[(source, neighbour) for source, neighbour in connection.execute(_TIES).fetchall()],
        categories=dict(connection.execute(_CATEGORIES).fetchall()),
    )


def read_polygons(connection: "duckdb.DuckDBPyConnection", object_ids: "pa.ChunkedArray") -> "pa.ChunkedArray":
    """The polygons of objects in their order, as rings of x, y, x, y, …; null of one that has none, or of no id.

    Args:
        connection: what ``open_pool`` gave with polygons.
        object_ids: text.
    """
    import pyarrow as pa

    wanted = pa.table({"object_id": object_ids, "place": pa.array(range(len(object_ids)), pa.int64())})
    connection.register("wanted", wanted)
    return connection.execute(_PARSED).to_arrow_table()["polygon"]
