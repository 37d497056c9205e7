"""Settings of the landmark task: data sets and their weights, network, loss."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from training.landmark_data import CACHE_SIDE
from training.networks import NETWORKS, has_pose
from training.settings import Strict


class Source(Strict):
    """One data set: a folder of pictures with .pts files, below `data`, or sets that `training.prepare` has read."""

    folder: str = ""
    prepared: Path | None = None
    """Folder that training.prepare wrote, instead of `folder`; what it holds out stays held out."""
    sets: str = ".*"
    """Pattern of the names of the prepared sets that belong to this source."""
    weight: float = Field(1.0, ge=0)
    """How often one of its faces is drawn, relative to a weight of 1; 0 excludes the set from training."""
    held_out: float = Field(0.0, ge=0, le=1)
    """Share of its people held out for validation."""
    person: str = r".*"
    """Pattern whose match at the start of a file's name is the person; by default, each file is a person."""
    jaw_weight: float = 1.0
    """Weight of the jaw line, below 1 if the labels follow the 3-D contour and not the visible one."""
    terms: str = "terms not stated"
    """What the set is and may be used for; written into the card of the exported network."""
    states: bool = True
    """Whether eye and mouth states are learnt from these labels."""
    mild: float | None = Field(None, ge=0, le=1)
    """Share of mild views of its faces; empty: that of the task."""
    labels: Literal["file", "teacher", "mean"] = "file"
    """Which points are learnt: those of the files, the teacher's, or the mean of both."""

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
    """Folder of WIDER FACE, below `data`, from which crops between the faces are cut as examples without a face."""
    background_terms: str = "terms not stated"
    """Terms of both, for the card."""
    lookalikes: Path | None = None
    """Config of a face detector's training. Places in its backgrounds that the released detector takes for faces are a
    third of the crops without a face (see training.lookalikes). Empty: none."""
    negatives: float = Field(0.12, ge=0, lt=1)
    """Share of a batch that shows no face or has lost it."""
    rare: float = Field(2.0, ge=1)
    """Factor by which closed eyes, wide open mouths and half profiles are drawn more often, each."""
    mild: float = Field(0.5, ge=0, le=1)
    """Share of the faces that are only mirrored, relit and shifted a little, like most crops of a video."""
    covered: float = Field(0.1, ge=0, le=1)
    """Share of the others that get glasses, a mask, or a hand before the face (see training.cover)."""
    pairs: float = Field(0.0, ge=0, le=1)
    """Share of a batch that consists of pairs of views of the same face, which must agree (`equivariance_weight`)."""
    network: str = "vote"
    """One of training.networks: vote, large, slim, mobilenetv3-small, shufflenetv2-100-vote, ..."""
    init: Path | None = None
    """Released network (.pt2) whose weights the training starts from; empty: random weights."""
    tutor: str = ""
    """Larger network that is trained together with it and guides its points (see training.tutor); empty: none."""
    tutor_init: Path | None = None
    """Released network (.pt2) whose weights the tutor starts from; empty: random weights."""
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
    """Weights of the points of regions; the default is 1. 610265158/face_landmark gives eyes and brows 1.5."""
    coordinate_weight: float = 0.3
    """Of `point_loss`; a wing loss of 10 and 2 pixels is about five times as steep as the distance."""
    equivariance_weight: float = 0.12
    """Of the distance in pixels between the points of two views of a face. With 0.5, points are calmer by a fifth; the
    error on AFW is then 4.67 %, and 4.59 % after 2,000 steps with 0.12."""
    spread_weight: float = 0.05
    states_weight: float = 0.4
    presence_weight: float = 0.3
    pose_weight: float = 1.0
    """Of the head pose, in networks that output one."""

    @field_validator("network", "tutor")
    @classmethod
    def _known_network(cls, name: str) -> str:
        if name and name not in NETWORKS:
            raise ValueError(f"unknown; known are {', '.join(NETWORKS)}")
        return name

    @model_validator(mode="after")
    def _teacher_and_pupils(self) -> "LandmarkSettings":
        relabelled = [name for name, source in self.sources.items() if source.labels != "file"]
        if relabelled and self.teacher is None:
            raise ValueError(f"sources.{relabelled[0]}.labels: {self.sources[relabelled[0]].labels} needs a teacher")
        if has_pose(self.tutor) and not has_pose(self.network):
            raise ValueError(f"tutor: {self.tutor} learns a head pose, but batches for {self.network} have none")
        if self.teacher and not relabelled:
            raise ValueError("teacher: no source has labels: teacher or mean")
        return self
