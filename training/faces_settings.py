"""Settings of the face detector's training, also used by its evaluation."""

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt

from training.settings import Strict

SIZES = (16, 32, 8)
"""Least heights, in pixels of the input, of the faces in each average precision; the first one decides which weights
are the best."""


class FaceSettings(Strict):
    """Settings of the face detector's training."""

    data: Path
    """Folder that holds the data sets; `wider` and `points` are relative to it."""
    wider: str | None = None
    """Folder of WIDER FACE, which holds WIDER_train and wider_face_split."""
    prepared: dict[Path, str] = Field(default_factory=dict)
    """Folders that training.prepare wrote from `data`, and for each the pattern of the sets to use; what it holds out
    stays held out."""
    points: dict[str, str] = Field(default_factory=dict)
    """Sets of pictures with 68 points, whose faces are pasted into scenes: name to folder."""
    points_held_out: dict[str, str] = Field(default_factory=dict)
    """Sets with 68 points that are not trained with, for `training.evaluate`."""
    terms: dict[str, str] = Field(default_factory=dict)
    """What a set is and may be used for, written into the card, by its name: `wider`, `backgrounds`, a folder in
    `prepared` or a name in `points`."""
    backgrounds: str = ""
    """Folder of pictures without faces; empty: none."""
    background_share: float = Field(0.05, ge=0, le=1)
    """Share of the scenes that are backgrounds."""
    plain: float = Field(0.0, ge=0, le=1)
    """Share of the scenes that look as at run time (`training.faces_draw.draw_plain`)."""
    background_hold_out: float = Field(0.5, ge=0, le=1)
    """Share of the backgrounds, by the hash of their names, that is held out to count false alarms."""
    not_backgrounds: list[str] = Field(default_factory=list)
    """Names of pictures in `backgrounds` that show faces after all."""
    hold_out: float = Field(0.1, ge=0, le=1)
    """Share of the WIDER pictures held out for validation."""
    hold_out_by: Literal["name", "event"] = "name"
    """'name' holds out single pictures, 'event' whole events."""
    size: int = Field(256, ge=64, multiple_of=32)
    """Side of the training pictures in pixels."""
    validation_size: tuple[PositiveInt, PositiveInt] = (320, 240)
    """Width and height that held-out pictures are fitted to."""
    cache: Path = Path(".cache")
    bfloat16: bool | None = None
    """Run the convolutions in bfloat16; empty: on GPUs, and on CPUs with instructions for it, which are 1.6 times as
    fast with it. On a CPU without (AMD EPYC, Zen 3) it was over twenty times slower than float32."""
    network: Literal["pyramid", "slim"] = "pyramid"
    """One of `training.faces_net.NETWORKS`."""
    init: Path | None = None
    """Released detector (.pt2) whose weights the training starts from; empty: random weights."""
    point_teacher: Path | None = None
    """Released landmark network that adds five points to the faces of pictures without points (see
    training.faces_points); empty: they teach boxes and scores only."""
    point_weight: float = 0.5
    box_weight: float = 2.0
