"""Other tools that write labels, for ``labels.py``, which runs this in an environment that has one of them."""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Write = Callable[[Path], None]


def datumaro(data: dict[str, Any], format_name: str) -> Write:
    """Datumaro's dataset of boxes, or of polygons."""
    import datumaro as dm

    def annotations(objects: list[dict[str, Any]]) -> list[Any]:
        if format_name == "yolo":
            return [dm.Bbox(*item["bbox"], label=item["class_id"]) for item in objects]
        return [dm.Polygon(item["polygon"], label=item["class_id"]) for item in objects]

    media = dm.Image.from_file
    size = (data["height"], data["width"])
    items = [
        dm.DatasetItem(
            image["name"],
            subset=image["split"],
            media=media(path=f"{image['name']}.png", size=size),
            annotations=annotations(image["objects"]),
        )
        for image in data["images"]
    ]
    dataset = dm.Dataset.from_iterable(items, categories=data["classes"], media_type=dm.Image)
    name = "yolo" if format_name == "yolo" else "coco_instances"
    return lambda folder: dataset.export(str(folder), name, save_media=False)


def labelformat(data: dict[str, Any], format_name: str) -> Write:
    """Labelformat's stream of labels."""
    from labelformat.formats import COCOInstanceSegmentationOutput, YOLOv8ObjectDetectionOutput
    from labelformat.model.bounding_box import BoundingBox
    from labelformat.model.category import Category
    from labelformat.model.image import Image
    from labelformat.model.instance_segmentation import ImageInstanceSegmentation, SingleInstanceSegmentation
    from labelformat.model.multipolygon import MultiPolygon
    from labelformat.model.object_detection import ImageObjectDetection, SingleObjectDetection

    categories = [Category(id=index, name=name) for index, name in enumerate(data["classes"])]
    images = [
        Image(id=index, filename=f"{image['name']}.png", width=data["width"], height=data["height"])
        for index, image in enumerate(data["images"])
    ]

    def box(x: float, y: float, w: float, h: float) -> Any:
        return BoundingBox(xmin=x, ymin=y, xmax=x + w, ymax=y + h)

    def points(polygon: list[float]) -> Any:
        return MultiPolygon(polygons=[list(zip(polygon[::2], polygon[1::2], strict=True))])

    labels = []
    for image, entry in zip(images, data["images"], strict=True):
        if format_name == "yolo":
            boxes = [SingleObjectDetection(categories[o["class_id"]], box(*o["bbox"])) for o in entry["objects"]]
            labels.append(ImageObjectDetection(image=image, objects=boxes))
        else:
            masks = [
                SingleInstanceSegmentation(categories[o["class_id"]], points(o["polygon"])) for o in entry["objects"]
            ]
            labels.append(ImageInstanceSegmentation(image=image, objects=masks))

    class Source:
        def get_categories(self) -> Any:
            return categories

        def get_images(self) -> Any:
            return images

        def get_labels(self) -> Any:
            return labels

    if format_name == "yolo":
        return lambda folder: YOLOv8ObjectDetectionOutput(folder / "data.yaml", "train").save(Source())
    return lambda folder: COCOInstanceSegmentationOutput(folder / "instances.json").save(Source())


def fiftyone(data: dict[str, Any], format_name: str) -> Write:
    """FiftyOne's exporters, without its database."""
    import fiftyone as fo
    from fiftyone.utils.coco import COCODetectionDatasetExporter
    from fiftyone.utils.yolo import YOLOv5DatasetExporter

    width, height, classes = data["width"], data["height"], data["classes"]
    metadata = fo.ImageMetadata(width=width, height=height)

    def label(item: dict[str, Any]) -> Any:
        if format_name == "yolo":
            x, y, w, h = item["bbox"]
            name = classes[item["class_id"]]
            return fo.Detection(label=name, bounding_box=[x / width, y / height, w / width, h / height])
        points = zip(item["polygon"][::2], item["polygon"][1::2], strict=True)
        relative = [(x / width, y / height) for x, y in points]
        return fo.Polyline(label=classes[item["class_id"]], points=[relative], closed=True, filled=True)

    many = fo.Detections if format_name == "yolo" else fo.Polylines
    key = "detections" if format_name == "yolo" else "polylines"
    samples = [
        (f"/images/{image['name']}.png", many(**{key: [label(item) for item in image["objects"]]}))
        for image in data["images"]
    ]

    def write(folder: Path) -> None:
        if format_name == "yolo":
            exporter = YOLOv5DatasetExporter(str(folder), export_media=False, classes=classes)
        else:
            exporter = COCODetectionDatasetExporter(str(folder), export_media=False, classes=classes)
        with exporter:
            for path, labels in samples:
                exporter.export_sample(path, labels, metadata=metadata)

    return write


def supervision(data: dict[str, Any], format_name: str) -> Write:
    """Supervision's dataset; it reads each image for its size, and has no outlines but those of masks."""
    import cv2
    import numpy as np
    import supervision as sv

    height, width = data["height"], data["width"]
    links = Path(tempfile.mkdtemp(dir=Path(data["picture"]).parent))
    known: dict[str, Any] = {}

    def mask(polygon: list[float]) -> Any:
        key = json.dumps(polygon)
        if key not in known:
            pixels = np.zeros((height, width), np.uint8)
            cv2.fillPoly(pixels, [np.array(polygon).reshape(-1, 2).astype(np.int32)], 1)
            known[key] = pixels.astype(bool)
        return known[key]

    annotations: dict[str, Any] = {}
    for image in data["images"]:
        path = links / f"{image['name']}.png"
        path.hardlink_to(data["picture"])
        boxes = np.array([item["bbox"] for item in image["objects"]])
        boxes[:, 2:] += boxes[:, :2]
        class_id = np.array([item["class_id"] for item in image["objects"]])
        masks = None if format_name == "yolo" else np.array([mask(item["polygon"]) for item in image["objects"]])
        annotations[str(path)] = sv.Detections(xyxy=boxes, class_id=class_id, mask=masks)
    dataset = sv.DetectionDataset(data["classes"], list(annotations), annotations)

    def write(folder: Path) -> None:
        if format_name == "yolo":
            dataset.as_yolo(annotations_directory_path=str(folder), data_yaml_path=str(folder / "data.yaml"))
        else:
            dataset.as_coco(annotations_path=str(folder / "instances.json"))

    return write


def written_objects(folder: Path, format_name: str) -> int:
    """The labels that were written."""
    if format_name == "yolo":
        paths = [path for path in folder.rglob("*.txt") if path.stem not in ("train", "val", "test", "valid")]
        return sum(len(path.read_text().splitlines()) for path in paths)
    return sum(len(json.loads(path.read_text()).get("annotations", ())) for path in folder.rglob("*.json"))


def main() -> None:
    """Write the dataset as often as asked, and print the most images for a second of processor time."""
    name, format_name, path, runs = sys.argv[1:]
    data = json.loads(Path(path).read_text())
    if name == "supervision" and format_name == "coco":
        # Its masks are whole images: all of them at once would not fit in memory, and a part is as quick an image.
        data["images"] = data["images"][:200]
    objects = sum(len(image["objects"]) for image in data["images"])
    write = {"datumaro": datumaro, "labelformat": labelformat, "fiftyone": fiftyone, "supervision": supervision}[name](
        data, format_name
    )
    figures = []
    for _ in range(int(runs)):
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            write(Path(folder))
            figures.append(len(data["images"]) / (time.process_time() - start))
            if (found := written_objects(Path(folder), format_name)) != objects:
                raise RuntimeError(f"{name} wrote {found} of {objects} objects as {format_name}")
    print(json.dumps({format_name: round(max(figures), 1)}))


if __name__ == "__main__":
    main()
