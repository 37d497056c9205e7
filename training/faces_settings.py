"""Settings of the face detector's training, which its evaluation shares."""

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt

from training.settings import Strict

SIZES = (16, 32, 8)
"""Least heights, in pixels of the input, of the faces that an average precision is given for; the first decides."""


class FaceSettings(Strict):
    """Settings of the face detector's training."""

    data: Path
    """Folder that holds the data sets; `wider` and `points` are relative to it."""
    wider: str | None = None
    """Folder of WIDER FACE, which holds WIDER_train and wider_face_split."""
    prepared: dict[Path, str] = Field(default_factory=dict)
    """Folders that training.prepare wrote from `data`, and in each the pattern of the sets that are used too; what it
    holds out stays held out."""
    points: dict[str, str] = Field(default_factory=dict)
    """Sets of pictures with 68 points, put into the scenes: name to folder."""
    points_held_out: dict[str, str] = Field(default_factory=dict)
    """Sets with 68 points that are not trained with, for `training.evaluate`."""
    terms: dict[str, str] = Field(default_factory=dict)
    """What a set is and may be used for, for the card of the released network, by its name: `wider`, `backgrounds`,
    a folder in `prepared` or a name in `points`."""
    backgrounds: str = ""
    """Folder of pictures without faces; empty: none."""
    background_share: float = Field(0.05, ge=0, le=1)
    """Share of the scenes that are backgrounds."""
    plain: float = Field(0.0, ge=0, le=1)
    """Share of the scenes that are drawn as the run time sees them (`training.faces_draw.draw_plain`)."""
    background_hold_out: float = Field(0.5, ge=0, le=1)
    """Share of the backgrounds, by the hash of their names, on which false alarms are counted instead."""
    not_backgrounds: list[str] = Field(default_factory=list)
    """Names of pictures in `backgrounds` that show faces after all."""
    hold_out: float = Field(0.1, ge=0, le=1)
    """Share of the WIDER pictures kept for validation."""
    hold_out_by: Literal["name", "event"] = "name"
    """'name' holds out single pictures, 'event' whole events."""
    size: int = Field(256, ge=64, multiple_of=32)
    """Side of the training pictures in pixels."""
    validation_size: tuple[PositiveInt, PositiveInt] = (320, 240)
    """Width and height that held-out pictures are fitted to."""
    cache: Path = Path(".cache")
    bfloat16: bool | None = None
    """Run the convolutions in bfloat16; empty: on GPUs, and on CPUs with instructions for it, where it is 1.6 times as
    fast. On one without (AMD EPYC, Zen 3) it was over twenty times slower than float32."""
    network: Literal["pyramid", "slim"] = "pyramid"
    """Which of `training.faces_net.NETWORKS` is trained."""
    init: Path | None = None
    """Released detector (.pt2) whose weights the training starts from; empty: random weights."""
    point_teacher: Path | None = None
    """Released landmark network that gives five points to the faces of pictures that have none (see
    training.faces_points); empty: these teach boxes and scores only."""
    point_weight: float = 0.5
    box_weight: float = 2.0
