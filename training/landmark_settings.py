"""Settings of the landmark task: data sets and their weights, network, loss."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from training.landmark_data import CACHE_SIDE
from training.networks import NETWORKS, has_pose
from training.settings import Strict


class Source(Strict):
    """One data set: a folder of pictures with .pts, below `data`, or sets that `training.prepare` has read."""

    folder: str = ""
    prepared: Path | None = None
    """Folder that training.prepare wrote, in the place of `folder`; what it holds out stays held out."""
    sets: str = ".*"
    """Pattern of the names of the prepared sets that belong to this source."""
    weight: float = Field(1.0, ge=0)
    """How often one of its faces is drawn, against a weight of 1; 0 keeps the set out of training."""
    held_out: float = Field(0.0, ge=0, le=1)
    """Share of its people kept for validation."""
    person: str = r".*"
    """Pattern whose match at the start of a file's name is the person; the default takes every file as its own."""
    jaw_weight: float = 1.0
    """Weight of the jaw line, below 1 where labels follow the 3-D contour and not the visible one."""
    terms: str = "terms not stated"
    """What the set is and may be used for; goes into the card of the released network."""
    states: bool = True
    """Whether eye and mouth states are learnt from these labels."""
    mild: float | None = Field(None, ge=0, le=1)
    """Share of mild views of its faces, where it is not that of the others."""
    labels: Literal["file", "teacher", "mean"] = "file"
    """Whose points are learnt: those of the files, the teacher's, or the mean of both."""

    @model_validator(mode="after")
    def _one_place(self) -> "Source":
        if bool(self.folder) == bool(self.prepared):
            raise ValueError("give either folder or prepared")
        return self


class LandmarkSettings(Strict):
    """Settings of the landmark task."""

    data: Path = Path("data")
    cache: Path = Path(".cache")
    sources: dict[str, Source]
    backgrounds: str | None = None
    """Folder of pictures without faces, below `data`."""
    wider: str | None = None
    """Folder of WIDER FACE, below `data`: crops between its faces teach what is no face."""
    background_terms: str = "terms not stated"
    """Terms of both, for the card."""
    lookalikes: Path | None = None
    """Config of a face detector's training, in whose backgrounds the released detector looks for what is no face: a
    third of the crops that show none (see training.lookalikes). Empty: none."""
    negatives: float = Field(0.12, ge=0, lt=1)
    """Share of a batch that shows no face or has lost it."""
    rare: float = Field(2.0, ge=1)
    """How much more often closed eyes, wide open mouths and half profiles are drawn, each."""
    mild: float = Field(0.5, ge=0, le=1)
    """Share of the faces that are only mirrored, relit and shifted a little: what most crops of a video are like."""
    covered: float = Field(0.1, ge=0, le=1)
    """Share of the others that wear glasses or a mask, or hold a hand before the face (see training.cover)."""
    pairs: float = Field(0.0, ge=0, le=1)
    """Share of a batch that are two looks at the same face, which must agree (`equivariance_weight`)."""
    network: str = "vote"
    """One of training.networks: vote, large, slim, mobilenetv3-small, shufflenetv2-100-vote, ..."""
    init: Path | None = None
    """Released network (.pt2) whose weights the training starts from; empty: from chance."""
    tutor: str = ""
    """A larger network that learns beside it and shows it its points (see training.tutor); empty: none."""
    tutor_init: Path | None = None
    """Released network (.pt2) whose weights the tutor starts from; empty: from chance."""
    tutor_share: float = Field(0.5, gt=0, le=1)
    """Share of each batch that the tutor sees."""
    tutor_weight: float = 0.15
    """Of the distance in pixels between the points of both."""
    teacher: Path | None = None
    """Exported network, or checkpoint, whose points replace the labels of sources with `labels: teacher` or `mean`."""
    size: int = Field(160, ge=32, le=CACHE_SIDE, multiple_of=32)
    """Side of the input in pixels, at most that of the cached crops."""
    point_loss: Literal["distance", "wing"] = "distance"
    """Distance in pixels, or the wing loss of it (see training.landmark_loss)."""
    wing_width: float = Field(10.0, gt=0)
    """Error in pixels below which the wing loss is logarithmic."""
    wing_curvature: float = Field(2.0, gt=0)
    """Error in pixels around which its slope falls."""
    region_weights: dict[Literal["jaw", "brows", "nose", "eyes", "mouth"], float] = Field(default_factory=dict)
    """Weights of the points of regions against a weight of 1. 610265158/face_landmark gives eyes and brows 1.5."""
    coordinate_weight: float = 0.3
    """Of `point_loss`; a wing loss of 10 and 2 pixels has some five times the slope of the distance."""
    equivariance_weight: float = 0.12
    """Of the distance in pixels between the points of two looks at a face. With 0.5 they are calmer by a fifth, and the
    error on AFW is 4.67 % where it is 4.59 after 2,000 steps with 0.12."""
    spread_weight: float = 0.05
    states_weight: float = 0.4
    presence_weight: float = 0.3
    pose_weight: float = 1.0
    """Of the head pose, in networks that give one."""

    @field_validator("network", "tutor")
    @classmethod
    def _known_network(cls, name: str) -> str:
        if name and name not in NETWORKS:
            raise ValueError(f"unknown; known are {', '.join(NETWORKS)}")
        return name

    @model_validator(mode="after")
    def _teacher_and_pupils(self) -> "LandmarkSettings":
        taught = [name for name, source in self.sources.items() if source.labels != "file"]
        if taught and self.teacher is None:
            raise ValueError(f"sources.{taught[0]}.labels: {self.sources[taught[0]].labels} needs a teacher")
        if has_pose(self.tutor) and not has_pose(self.network):
            raise ValueError(f"tutor: {self.tutor} learns a head pose, which is not drawn for {self.network}")
        if self.teacher and not taught:
            raise ValueError("teacher: no source has labels: teacher or mean")
        return self
