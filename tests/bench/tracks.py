"""Measure whether people keep their ids: detector and landmarks on a composed street with known truth.

python -m tests.bench.tracks [FACES] [BACKGROUNDS] [--seconds 60] [--people 5] [--misses 0.3] [--video FILE]

FACES is a folder of pictures with .pts files, BACKGROUNDS one of photographs without faces (those excluded from the
detector's training because they show people are excluded here, too). By default, the portrait walks in front of a plain
background. See tests/bench/walkers.py for the scene. A face that was found belongs to the person whose points are
nearest, within 0.35 of a face side. A second run drops the share `--misses` of the detections at random.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import yaml
from scipy.optimize import linear_sum_assignment

from graph import Detections, Faces, Frame, Header
from nodes.detect import FaceDetector
from nodes.landmarks import Landmarks
from nodes.record import Record
from nodes.render import Render
from tests.bench._measure import console, head, table
from tests.bench.walkers import SEEN, Person, Street, heads

NEAR = 0.35  # face sides, maximum mean distance of the points between a found face and its person
HIDDEN = 0.2  # a person with a smaller share of visible points counts as hidden
FPS = 30
TRAINING = Path(__file__).resolve().parents[2] / "configs/train/faces.yaml"


@dataclass
class Score:
    """Counts what became of people and ids."""

    frames: int = 0
    switches: int = 0
    seen: int = 0  # person-frames that are visible and have landmarks
    showing: int = 0  # person-frames that are visible
    waits: dict[int, int] = field(default_factory=dict)  # person: frames from showing to the first landmarks
    lives: dict[int, list[bool]] = field(default_factory=dict)  # id: whether each of its frames was on a person
    _ids: dict[int, int] = field(default_factory=dict)  # person: latest id
    _since: dict[int, int] = field(default_factory=dict)  # person: first frame in which they were visible

    def take(self, people: list[Person], faces: Faces) -> None:
        """Add a frame: the people in it, and the faces found."""
        there = [person for person in people if person.showing >= HIDDEN]
        pairs = pairing(there, faces)
        for row, id_ in enumerate(faces.ids.tolist()):
            self.lives.setdefault(id_, []).append(row in pairs.values())
        for index, person in enumerate(there):
            if index in pairs:
                id_ = int(faces.ids[pairs[index]])
                self.switches += self._ids.get(person.id, id_) != id_
                self._ids[person.id] = id_
            if person.showing >= SEEN:
                self.showing += 1
                self.seen += index in pairs
                self._since.setdefault(person.id, self.frames)
            if index in pairs and person.id not in self.waits:
                self.waits[person.id] = self.frames - self._since.get(person.id, self.frames)
        self.frames += 1

    def false_tracks(self) -> list[int]:
        """Return the lengths, in frames, of the ids that were on no person for most of their time."""
        return [len(life) for life in self.lives.values() if np.mean(life) < 0.5]

    def ghosts(self) -> int:
        """Return the largest number of successive frames in which an id was on no person."""
        return max((longest(life) for life in self.lives.values()), default=0)

    def never(self) -> int:
        """Return how many visible people were never found."""
        return len(self._since.keys() - self.waits.keys())

    def row(self) -> list[str]:
        """Return a row of the table."""
        minutes = self.frames / FPS / 60
        false, waits = self.false_tracks(), list(self.waits.values()) or [0]
        return [
            str(len(self._since)), f"{self.switches}", f"{len(false) / minutes:.1f}",
            f"{max(false, default=0)}", f"{self.ghosts()}",
            f"{np.mean(waits) / FPS * 1e3:.0f}", f"{np.percentile(waits, 95) / FPS * 1e3:.0f}", f"{self.never()}",
            f"{100 * self.seen / max(self.showing, 1):.1f}",
        ]  # fmt: skip


def pairing(people: list[Person], faces: Faces) -> dict[int, int]:
    """Match people and faces, the nearest together: index in people to row of faces, each at most once."""
    if not people or not len(faces):
        return {}
    points = np.stack([person.points for person in people])
    sides = np.ptp(points, axis=1).max(axis=1)
    gaps = np.linalg.norm(points[:, None] - faces.landmarks, axis=3).mean(axis=2) / sides[:, None]
    chosen = zip(*linear_sum_assignment(np.minimum(gaps, NEAR)), strict=True)
    return {int(index): int(row) for index, row in chosen if gaps[index, row] < NEAR}


def longest(life: list[bool]) -> int:
    """Return the length of the longest run of False."""
    runs, run = [0], 0
    for on_somebody in life:
        run = 0 if on_somebody else run + 1
        runs.append(run)
    return max(runs)


def followed(street: Street, misses: float = 0.0) -> Iterator[tuple[Frame, Faces]]:
    """Yield each frame of the street with the faces found by detector and landmarks."""
    detector, landmarks = FaceDetector(), Landmarks()
    detector.open()
    landmarks.open()
    random = np.random.default_rng(0)
    for seq in range(street.frames):
        frame = Frame(image=street.paint(seq), header=Header(seq=seq, pts=seq / FPS))
        found = detector.process(frame)
        if isinstance(found, Detections):
            kept = random.random(len(found.boxes)) >= misses
            found = replace(found, boxes=found.boxes[kept], scores=found.scores[kept], points=found.points[kept])
            found = found.with_header(frame.header)
        yield frame, landmarks.process(frame, found).with_header(frame.header)


def score(street: Street, misses: float = 0.0, video: Path | None = None) -> Score:
    """Run detector and landmarks over the street."""
    result = Score()
    render, record = Render(), Record(path=str(video)) if video else None
    render.open()
    if record:
        record.open()
    for frame, faces in followed(street, misses):
        result.take(street.people(frame.seq), faces)
        if record:
            record.process(render.process(frame, faces).with_header(frame.header))
    if record:
        record.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.tracks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("faces", nargs="?", type=Path)
    parser.add_argument("backgrounds", nargs="?", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--people", type=int, default=5, help="at once")
    parser.add_argument("--misses", type=float, default=0.3)
    parser.add_argument("--video", type=Path, help="write the first run to this video")
    given = parser.parse_args()
    head(f"Tracks: {given.seconds:.0f} s of a street, {given.people} people at once")
    with_people = yaml.safe_load(TRAINING.read_text(encoding="utf-8"))["settings"]["not_backgrounds"]
    pictures = sorted(given.backgrounds.glob("*.jpg")) if given.backgrounds else []
    pictures = [picture for picture in pictures if picture.name not in with_people]
    chosen = pictures[:: max(1, len(pictures) // 12)]
    street = Street(heads(given.faces), chosen, round(given.seconds * FPS), given.people)
    columns = ("people", "id switches", "false tracks/min", "longest, frames", "ghost, frames")
    rows = table("", *columns, "first ms", "p95", "never", "seen %")
    for name, misses in (("as it is", 0.0), (f"{given.misses:.0%} of the detections missed", given.misses)):
        rows.add_row(name, *score(street, misses, None if misses else given.video).row())
    console.print(rows)
    console.print(
        "first: from nearly whole visibility to the first landmarks, mean and p95. longest: length of a false track.\n"
        "ghost: most successive frames in which an id was on no person. seen: share of the time in which people who\n"
        "are nearly wholly visible have landmarks."
    )


if __name__ == "__main__":
    main()
