import io

from PIL import Image

from al_dagster.labelling.sheets import detection_sheet, label_sheet


def size_of(content: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(content)) as sheet:
        assert sheet.format == "JPEG"
        return sheet.size


def test_sheets_show_boxes_masks_and_labels_in_at_most_100_kb(chain):
    detected = chain.up_to("detections")
    chain.mask_table()
    chain.embeddings()
    classified = chain.classifications()
    boxes = detection_sheet(detected, chain.last("frames"), chain.images)
    labels = label_sheet(
        classified,
        chain.last("frames"),
        chain.last("detections"),
        chain.last("masks"),
        chain.project,
        chain.masks,
        chain.images,
    )
    assert boxes.contact_sheet is not None
    assert labels.contact_sheet is not None
    assert boxes.table.equals(detected.table)
    assert boxes.contact_sheet.made_from != labels.contact_sheet.made_from
    for content in (boxes.contact_sheet.draw(), labels.contact_sheet.draw()):
        assert len(content) <= 100_000
        assert size_of(content)[0] > 160


def test_a_batch_without_readable_pictures_has_no_sheet(chain, home):
    detected = chain.up_to("detections")
    chain.images.clear()
    for path in (home.path / "images").iterdir():
        path.unlink()
    assert detection_sheet(detected, chain.last("frames"), chain.images).contact_sheet.draw() is None


def test_a_batch_in_which_nothing_was_found_shows_its_pictures(chain):
    detected = chain.up_to("detections")
    nothing = type(detected)(detected.table.slice(0, 0), 0, 2)
    sheet = detection_sheet(nothing, chain.last("frames"), chain.images).contact_sheet
    assert sheet.draw() is not None
    assert sheet.made_from != detection_sheet(detected, chain.last("frames"), chain.images).contact_sheet.made_from
