"""What is known of each image, as a person asks for it and says it."""

import pytest


def test_every_image_is_listed_with_its_state_objects_and_file(place, here):
    rows = here("images", "list", "-p", "shapes", "--json", home=place.home).json
    assert {(row["state"], row["objects"]) for row in rows} == {("objects", 2)}
    assert {row["file_path"] for row in rows} == {str(path) for path in place.images.glob("*.bmp")}
    assert "4 objects" in here("images", "list", "-p", "shapes", home=place.home).out


@pytest.mark.parametrize("name", ["path", "source", "frame"])
def test_an_image_whose_objects_are_deleted_can_be_called_background_and_back(place, here, name):
    (first, *_) = here("images", "list", "-p", "shapes", "--json", home=place.home).json
    image = {"path": first["file_path"], "source": first["source_id"], "frame": first["frame_id"]}[name]
    refused = here("images", "background", image, "-p", "shapes", "--by", "ann", home=place.home)
    assert refused.status == 2
    assert f"frame {first['frame_id']} has objects" in refused.err
    objects = here("objects", "list", "--source", first["source_id"], "--json", home=place.home).json
    here("objects", "delete", *(row["object_id"] for row in objects), "--by", "ann", home=place.home)
    assert here("images", "background", image, "-p", "shapes", "--by", "ann", home=place.home).status == 0
    (row,) = here("images", "list", "-p", "shapes", "--state", "background", "--json", home=place.home).json
    assert (row["frame_id"], row["background_by"]) == (first["frame_id"], "ann")
    assert here("images", "background", image, "-p", "shapes", "--undo", home=place.home).status == 0
    (row,) = here("images", "list", "-p", "shapes", "--state", "background", "--json", home=place.home).json
    assert row["background_by"] is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("list", "-p", "none"), "there is no project 'none'"),
        (("list", "-p", "shapes", "--state", "odd"), "objects, background, unsure, failed, waiting"),
        (("background", "/no/such.png", "-p", "shapes"), "is not an image of project 'shapes'"),
        (("background", "src_none", "-p", "shapes"), "is not an image of project 'shapes'"),
        (("background", "frm_none", "-p", "shapes"), "is not one of project 'shapes'"),
    ],
)
def test_what_cannot_be_is_one_sentence(place, here, arguments, told):
    said = here("images", *arguments, home=place.home)
    assert (said.status, said.err.count("\n")) == (2, 1)
    assert told in said.err


def test_ingest_and_status_say_which_images_are_unsure(here, tmp_path, draw_shapes, place):
    home = tmp_path / "home"
    for seed in range(2):
        draw_shapes(tmp_path / "images" / f"{seed}.bmp", seed)
    config = tmp_path / "project.yaml"
    config.write_text(f"classes: [square, disc]\nsupport: {place.support}\nclassification: {{threshold: 0.999}}\n")
    said = here("ingest", tmp_path / "images", "-p", "odd", "--config", config, home=home)
    assert "2 images hold only proposals that are like no example" in said.out
    assert "2 unsure" in here("status", home=home).out
