import dagster as dg

from al_dagster.automation.schedules import nightly_reconcile
from al_dagster.core.lake import Lake
from al_dagster.labelling.intake import take_folder
from al_dagster.registry.database import open_registry
from al_dagster.registry.objects import list_objects
from al_dagster.vectors.chroma import ChromaStore
from al_dagster.vision.hog_color import HogColorEmbedder


def claim(daemon, count: int, batch_size: int) -> list[str]:
    with open_registry(daemon.home.settings.database_url) as registry:
        keys = take_folder(registry, daemon.home.pictures(count), daemon.home.project(), batch_size=batch_size)
    for key in keys:  # one by one, which keeps their order
        daemon.instance.add_dynamic_partitions("batch", [key])
    return keys


def test_a_backfill_labels_a_range_of_batches_in_one_run(daemon):
    keys = claim(daemon, 3, 1)
    tags = {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
    result = daemon.execute("label_batch", tags=tags)
    assert result.success
    lake = Lake(daemon.home.settings.lake)
    assert lake.partitions("vector_index") == sorted(keys)
    assert all(lake.read("vector_index", key).num_rows == 2 for key in keys)
    assert daemon.instance.get_runs_count() == 1


def test_reconciliation_repairs_a_vector_store_that_lost_and_kept_what_it_should_not(daemon):
    (key,) = claim(daemon, 2, 256)
    daemon.execute("label_batch", key)
    settings = daemon.home.settings
    with open_registry(settings.database_url) as registry:
        ids = [row["object_id"] for row in list_objects(registry)]
    with ChromaStore(settings.chroma_dir, HogColorEmbedder().version_id, HogColorEmbedder().dimension) as store:
        vector = store.get(ids[:1])[ids[0]]
        store.delete(ids[:1])
        store.upsert(["obj_stranger"], vector[None])
    result = daemon.execute("reconcile_vectors")
    figures = result.output_for_node("reconcile_vector_store")
    assert (figures["missing_in_store"], figures["missing_in_registry"], figures["repaired"]) == (1, 1, 2)
    with ChromaStore(settings.chroma_dir, HogColorEmbedder().version_id, HogColorEmbedder().dimension) as store:
        assert set(store.ids()) == set(ids)
    again = daemon.execute("reconcile_vectors").output_for_node("reconcile_vector_store")
    assert set(again.values()) == {0}


def test_the_schedule_reconciles_every_night(daemon):
    context = dg.build_schedule_context(instance=daemon.instance)
    ticked = nightly_reconcile.evaluate_tick(context)
    assert [request.job_name or nightly_reconcile.job_name for request in ticked.run_requests] == ["reconcile_vectors"]
