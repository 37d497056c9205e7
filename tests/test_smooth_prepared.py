"""Faces that are followed into a picture before their detections have come: the same points, in less time."""

from collections.abc import Container
from typing import Any

import numpy as np
import pytest

from graph import Frame, Header
from nodes._flow import track
from nodes.smooth import Smooth
from tests.bench.smoothing import Scene, scene
from tests.portrait import faces


def small(**settings: Any) -> Scene:
    return scene(width=640, height=360, **settings)


def filmed(clip: Scene, prepared: Container[int] = (), skip: int = -1, beside: Any = ()) -> list[Any]:
    """Smooth a clip, with some of its pictures prepared; of that with number `skip` the detections never come.

    `beside` (T, 68, 2) is where another face is found. Returns landmarks (F, 68, 2).
    """
    node, out = Smooth(), []
    node.open()
    for index, image in enumerate(clip.frames()):
        header = Header(seq=index, pts=index / 30)
        frame = Frame(header=header, image=image)
        if index in prepared:
            node.prepare(frame, None)
        if index != skip:
            points = np.stack([track[index] for track in (clip.raw, beside) if len(track)])
            out.append(node.process(frame, faces(points).with_header(header)).landmarks)
    return out


@pytest.mark.parametrize("path", [{}, {"pan": 0.4, "period": 0.5}, {"cut_every": 0.2}], ids=["still", "fast", "cut"])
def test_prepared_pictures_give_the_same_points(path: dict[str, Any]) -> None:
    clip = small(frames=10, **path)
    jumps = clip.raw + np.where(np.arange(10) < 5, 0, np.float32(2 * clip.eye))[:, None, None]
    np.testing.assert_array_equal(filmed(clip, range(10), beside=jumps), filmed(clip, beside=jumps))
    np.testing.assert_array_equal(filmed(clip, [7], skip=7), filmed(clip, skip=7))


def test_a_face_in_a_prepared_picture_is_followed_once_unless_it_moves_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    followed: list[int] = []

    def counted(*args: Any) -> Any:
        followed.append(len(args[0]))
        return track(*args)

    monkeypatch.setattr("nodes.smooth.track", counted)
    filmed(small(frames=4), range(4))
    assert sum(followed) == 3
    followed.clear()
    filmed(small(frames=4, pan=0.4, period=0.5), range(4))
    assert sum(followed) > 3
