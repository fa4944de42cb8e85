"""How a YOLO model is trained."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainingConfig(BaseModel):
    """What training does with a dataset; the defaults suit some thousand photos and a GPU.

    Every field is part of a model's fingerprint: a model that was trained with the same values on the same dataset is
    used again.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(
        "yolo11n.yaml",
        min_length=1,
        description="An architecture to train from scratch (yolo11n.yaml to yolo11x.yaml) or the path of a local .pt "
        "file to start from; nothing is ever downloaded.",
    )
    epochs: int = Field(100, ge=1, description="Passes over the training split.")
    imgsz: int = Field(
        640, ge=64, multiple_of=32, description="Side in pixels that the longer side of an image is scaled to."
    )
    batch: int = Field(16, ge=1, description="Images a step.")
    nbs: int = Field(
        64, ge=1, description="Images an optimizer step: the gradients of smaller batches are added up to so many."
    )
    seed: int = Field(0, ge=0, description="Seed of everything that is drawn at random.")
    patience: int = Field(50, ge=0, description="Epochs without a better validation result before it stops; 0: never.")
    optimizer: Literal["auto", "SGD", "MuSGD", "Adam", "AdamW"] = Field(
        "auto", description="auto chooses optimizer and learning rate by the number of steps, and ignores lr0."
    )
    lr0: float = Field(0.01, gt=0, le=1, description="Learning rate after the warm-up.")
    lrf: float = Field(0.01, gt=0, le=1, description="Learning rate at the end, as a part of lr0.")
    warmup_epochs: float = Field(3.0, ge=0, description="Epochs in which the learning rate rises to lr0.")
    weight_decay: float = Field(0.0005, ge=0, description="Pull of the weights towards zero.")
    cos_lr: bool = Field(False, description="Lower the learning rate along a cosine, not a line.")
    mosaic: float = Field(1.0, ge=0, le=1, description="Share of training pictures put together of four images.")
    close_mosaic: int = Field(10, ge=0, description="Last epochs, trained without mosaic.")
    degrees: float = Field(0.0, ge=0, le=180, description="Most that a training picture is turned, either way.")
    fliplr: float = Field(0.5, ge=0, le=1, description="Share of training pictures mirrored left to right.")
    flipud: float = Field(0.0, ge=0, le=1, description="Share of training pictures mirrored top to bottom.")
    scale: float = Field(0.5, ge=0, le=1, description="Most that a training picture is enlarged or shrunk, as a part.")
    freeze: int = Field(0, ge=0, description="First layers of given weights that stay as they are.")
    validate_each_epoch: bool = Field(
        True, description="Measure the val split after each epoch and keep the best epoch; otherwise only the last."
    )
    device: str = Field("auto", description="auto (the first GPU, else the CPU), cpu, or a GPU's number.")
    threads: int = Field(0, ge=0, description="CPU threads; 0: OMP_NUM_THREADS, or all cores.")
    workers: int = Field(0, ge=0, description="Processes that read images beside the training process.")
    cache: bool = Field(False, description="Keep all images of the dataset in memory.")
