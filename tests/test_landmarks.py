"""The landmark network and its node on the portrait, whose true points are known."""

from typing import Any

import cv2
import numpy as np
import pytest

from graph import Detections, Faces, Frame, Header
from graph.testing import run_node
from nodes import landmarks
from nodes._geometry import landmark_roll
from nodes.detect import FaceDetector
from nodes.landmarks import LandmarkModel, Landmarks, certain, landmark_boxes, roll_of_points
from nodes.source import TestSource
from tests.portrait import tight, true_points

NME = 0.09
"""Largest allowed error on the portrait: mean over the points, in distances of the outer eye corners."""


def source(**settings: Any) -> tuple[list[Frame], list[np.ndarray]]:
    """Frames of the test source, and their true landmarks (F, 68, 2)."""
    shown = run_node(TestSource(**{"width": 480, "height": 360, "frames": 1} | settings))
    return shown["frame"], [true_points(truth) for truth in shown["truth"]]


def errors(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean error per face in eye distances, of faces (F, 68, 2)."""
    eyes = np.linalg.norm(truth[:, 36] - truth[:, 45], axis=1)
    return np.linalg.norm(found - truth, axis=2).mean(1) / eyes


def turned_face(degrees: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return a frame turned clockwise, the map (2, 3) that turned it, and the true points before and after."""
    frames, [truth] = source()
    turn = cv2.getRotationMatrix2D((240, 180), -degrees, 1.0).astype(np.float32)
    image = cv2.warpAffine(frames[0].image, turn, (480, 360), borderValue=(90, 90, 90))
    return image, turn, truth, truth @ turn[:, :2].T + turn[:, 2]


def detected(landmarks: np.ndarray, header: Header | None = None) -> Detections:
    """Detections for faces with these landmarks (F, 68, 2): see DETECTOR_TO_LANDMARK."""
    boxes = tight(landmarks)
    height = (boxes[:, 3] - boxes[:, 1]) / 0.78
    boxes[:, 1] -= 0.25 * height
    boxes[:, 3] -= 0.03 * height
    five = [landmarks[:, part].mean(1) for part in (slice(36, 42), slice(42, 48), [30], [48], [54])]
    scores = np.full(len(boxes), 0.9, np.float32)
    return Detections(header=header or Header(), boxes=boxes, scores=scores, points=np.stack(five, 1))


def follow(frames: list[Frame], found: list[Detections | None], **settings: Any) -> list[Faces]:
    return run_node(Landmarks(**settings), frame=frames, found=found)["faces"]  # type: ignore[return-value]


@pytest.fixture(scope="module")
def model() -> LandmarkModel:
    return LandmarkModel()


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of faces in each run of the network."""
    asked: list[int] = []
    look = LandmarkModel._look

    def counted(model: LandmarkModel, image: np.ndarray, boxes: np.ndarray, rolls: np.ndarray) -> dict[str, np.ndarray]:
        asked.append(len(boxes))
        return look(model, image, boxes, rolls)

    monkeypatch.setattr(LandmarkModel, "_look", counted)
    return asked


@pytest.mark.parametrize("kind", ["detector", "landmarks"])
def test_finds_the_points_of_the_portrait(model: LandmarkModel, kind: str) -> None:
    frames, [truth] = source()
    boxes = detected(truth).boxes if kind == "detector" else tight(truth)
    faces = model.predict(frames[0].image, boxes, kind=kind)
    assert errors(faces.landmarks, truth)[0] < NME
    assert faces.scores[0] > 0.9
    assert (faces.states[0, [0, 1, 3]] < 0.5).all(), "eyes open, mouth not wide open"
    assert np.abs(faces.pose).max() < 20
    eyes = np.linalg.norm(truth[0, 36] - truth[0, 45])
    assert (faces.spread > 0).all() and faces.spread.mean() < 0.3 * eyes
    np.testing.assert_allclose(faces.boxes, tight(faces.landmarks), atol=1e-3)


def test_a_detected_face_gets_two_looks_and_a_false_one_a_single_look(
    model: LandmarkModel, looks: list[int]
) -> None:
    [frame], [truth] = source()
    both = np.concatenate((detected(truth).boxes, np.float32([[5, 5, 60, 60]])))
    assert (model.predict(frame.image, both).scores > 0.5).tolist() == [True, False] and looks == [2, 1]
    looks.clear()
    model.predict(frame.image, tight(truth), kind="landmarks")
    assert looks == [1]


def test_a_batch_gives_the_same_as_single_faces(model: LandmarkModel) -> None:
    frames, [truth] = source(width=1280, height=720, copies=20)
    boxes = tight(truth)
    faces = model.predict(frames[0].image, boxes, kind="landmarks")
    assert len(faces) == 20
    assert (errors(faces.landmarks, truth) < 2 * NME).all()
    for i in (0, 7, 19):
        alone = model.predict(frames[0].image, boxes[i : i + 1], kind="landmarks")
        np.testing.assert_allclose(alone.landmarks[0], faces.landmarks[i], atol=0.05)
        np.testing.assert_allclose(alone.pose[0], faces.pose[i], atol=0.2)


@pytest.mark.parametrize("degrees", [-90, 60, 180])
def test_a_tilted_face_is_found_with_its_roll(model: LandmarkModel, degrees: float) -> None:
    image, turn, truth, turned = turned_face(degrees)
    found = detected(truth)
    centres = found.boxes.reshape(1, 2, 2).mean(1) @ turn[:, :2].T + turn[:, 2]
    half = (found.boxes[:, 2:] - found.boxes[:, :2]) / 2
    boxes = np.concatenate((centres - half, centres + half), 1)
    rolls = roll_of_points(found.points @ turn[:, :2].T + turn[:, 2])
    assert np.degrees(landmark_roll(turned) - rolls)[0] == pytest.approx(0, abs=12)
    faces = model.predict(image, boxes, kind="detector", roll=rolls)
    assert errors(faces.landmarks, turned)[0] < NME
    assert (faces.pose[0, 2] - degrees + 180) % 360 - 180 == pytest.approx(0, abs=15)


@pytest.mark.parametrize("degrees", [-90, 45, 180])
def test_a_face_with_unknown_roll_is_looked_at_upright(model: LandmarkModel, degrees: float) -> None:
    image, _, _, turned = turned_face(degrees)
    faces = model.predict(image, tight(turned), kind="landmarks")
    assert errors(faces.landmarks, turned)[0] < NME


@pytest.mark.parametrize("shift", [(0.3, 0.0), (0.0, -0.3), (-0.2, 0.2)])
def test_a_box_that_is_off_centre_costs_no_accuracy(model: LandmarkModel, shift: tuple[float, float]) -> None:
    frames, [truth] = source()
    boxes = tight(truth)
    side = (boxes[:, 2:] - boxes[:, :2]).max()
    faces = model.predict(frames[0].image, boxes + np.tile(np.float32(shift) * side, 2), kind="landmarks")
    assert errors(faces.landmarks, truth)[0] < NME


def test_no_eye_outside_the_picture_counts_as_closed(model: LandmarkModel) -> None:
    frames, [truth] = source()
    top = int(truth[0, 36:48, 1].max()) + 1
    whole = model.predict(frames[0].image, tight(truth), kind="landmarks")
    cut = model.predict(frames[0].image[top:], tight(truth) - np.float32([0, top, 0, top]), kind="landmarks")
    assert whole.states.all(), "no probability is 0"
    assert not cut.states[0, :2].any() and cut.states[0, 2:].all()


@pytest.mark.parametrize("backend", ["onnxruntime", "mnn"])
def test_without_boxes_the_network_does_not_run(backend: str, looks: list[int]) -> None:
    """MNN would never return."""
    image = np.zeros((48, 64, 3), np.uint8)
    assert len(LandmarkModel(backend=backend).predict(image, np.zeros((0, 4), np.float32))) == 0
    assert not looks


def test_no_box_gives_no_face_and_invalid_input_is_refused(model: LandmarkModel) -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    assert len(model.predict(image, [])) == 0  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected finite boxes \(F, 4\) as x0, y0, x1, y1, found shape \(4,\)"):
        model.predict(image, np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="expected finite boxes"):
        model.predict(image, np.full((1, 4), np.nan, np.float32))
    with pytest.raises(ValueError, match="kind 'landmark' is not one of 'detector', 'landmarks'; did you mean"):
        model.predict(image, np.zeros((1, 4), np.float32), kind="landmark")
    with pytest.raises(ValueError, match="expected a BGR picture"):
        model.predict(image[..., 0], np.zeros((1, 4), np.float32))


def test_a_roll_is_for_each_face_or_for_all(model: LandmarkModel) -> None:
    frames, [truth] = source()
    boxes = np.repeat(tight(truth), 2, 0)
    one = model.predict(frames[0].image, boxes, kind="landmarks", roll=0.1)
    both = model.predict(frames[0].image, boxes, kind="landmarks", roll=np.float32([0.1, 0.1]))
    np.testing.assert_array_equal(one.landmarks, both.landmarks)
    for wrong in (np.zeros(3, np.float32), np.zeros((2, 1), np.float32), float("nan")):
        with pytest.raises(ValueError, match=r"roll: expected finite radians, one or as many as boxes \(2\), found"):
            model.predict(frames[0].image, boxes, roll=wrong)


@pytest.mark.parametrize("fov", [0, -60, 171, float("nan")])
def test_an_invalid_field_of_view_is_refused(model: LandmarkModel, fov: float) -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    with pytest.raises(ValueError, match=r"fov: expected degrees over 0 and up to 170, found"):
        model.predict(image, np.array([[10, 10, 40, 40]], np.float32), fov=fov)


def test_boxes_outside_the_picture_and_without_area_do_no_harm(model: LandmarkModel) -> None:
    frames, [truth] = source()
    boxes = np.array([[-900, -900, -800, -800], [5, 5, 5, 5], [470, 350, 700, 600], [50, 50, 20, 20]], np.float32)
    faces = model.predict(frames[0].image, np.concatenate((boxes, tight(truth))), kind="landmarks")
    assert np.isfinite(faces.landmarks).all() and np.isfinite(faces.pose).all()
    assert (faces.scores[:4] < 0.5).all() and faces.scores[4] > 0.9


def test_the_box_of_a_tilted_face_moves_along_the_face() -> None:
    box = np.array([[0, 0, 100, 100]], np.float32)
    upright = landmark_boxes(box, np.zeros(1, np.float32))
    right, down = upright.reshape(2, 2).mean(0) - 50
    assert down > 5, "landmarks are in the lower part of a face box"
    clockwise = landmark_boxes(box, np.array([np.pi / 2], np.float32))
    np.testing.assert_allclose(clockwise.reshape(2, 2).mean(0), [50 - down, 50 + right], atol=1e-4)


def test_follows_a_moving_face_from_one_detection() -> None:
    frames, truths = source(frames=40, period=1.5, rotation=25.0)
    seen = follow(frames, [detected(truths[0])] + [None] * 39)
    for faces, truth in zip(seen, truths, strict=True):
        assert list(faces.ids) == [0]
        assert errors(faces.landmarks, truth)[0] < NME


def test_a_still_face_does_not_jitter_with_sensor_noise() -> None:
    frames, truth = source(frames=20, motion="still", noise=3.0, width=1280, height=720)
    faces = follow(frames, [detected(truth[0])] + [None] * 19)
    points = np.stack([found.landmarks[0] for found in faces])
    steps = np.linalg.norm(np.diff(points[2:], axis=0), axis=2).mean()
    assert 0 < steps < 0.003 * np.linalg.norm(truth[0][0, 36] - truth[0][0, 45])


def test_follows_a_face_that_moves_half_its_side_per_frame() -> None:
    frames, truths = source(frames=6, width=1280, height=360, pan=1.0, period=1.2, motion="triangle", zoom=0.0)
    speed = np.linalg.norm(np.diff([truth[0, 30] for truth in truths], axis=0), axis=1).max()
    side = (tight(truths[0])[0, 2:] - tight(truths[0])[0, :2]).max()
    assert speed > 0.5 * side
    seen = follow(frames, [detected(truths[0])] + [None] * 5)
    for faces, truth in zip(seen, truths, strict=True):
        assert list(faces.ids) == [0]
        assert errors(faces.landmarks, truth)[0] < NME


@pytest.mark.parametrize("direction", [(1, 0), (-1, 0), (0, 1)])
def test_somebody_who_walks_past_keeps_their_id_after_one_detection(direction: tuple[int, int]) -> None:
    """The second look, at the first place, finds no face; the speed is only known after it."""
    [still], [truth] = source(width=1280, height=1280, size=0.2, zoom=0.0)
    side = (tight(truth)[0, 2:] - tight(truth)[0, :2]).max()
    step = (0.7 * side * np.float32(direction)).round()
    shifts = [np.float32([[1, 0, i * step[0]], [0, 1, i * step[1]]]) for i in range(6)]
    frames = [
        Frame(image=cv2.warpAffine(still.image, shift, (1280, 1280)), header=Header(seq=i, pts=i / 30))
        for i, shift in enumerate(shifts)
    ]
    seen = follow(frames, [detected(truth)] + [None] * 5)
    for i, faces in enumerate(seen):
        assert list(faces.ids) == [0]
        assert errors(faces.landmarks, truth + i * step)[0] < NME


def test_two_faces_late_and_repeated_detections_two_ids() -> None:
    frames, truths = source(frames=30, width=640, height=320, copies=2, period=2.0)
    frames = [frame.with_header(Header(seq=i, pts=i / 30)) for i, frame in enumerate(frames)]
    held: list[Detections | None] = [None] * 4
    for i in range(4, 30):
        of = (i - 4) // 5 * 5  # four frames late, held for five
        held.append(detected(truths[of][:: 1 - 2 * (of // 5 % 2)], frames[of].header))
    seen = follow(frames, held)
    assert all(len(faces) == 0 for faces in seen[:4])
    for faces, truth in zip(seen[4:], truths[4:], strict=True):
        assert list(faces.ids) == [0, 1]
        assert (errors(faces.landmarks, truth) < NME).all() or (errors(faces.landmarks[::-1], truth) < NME).all()


def test_a_false_detection_starts_no_track_and_gets_one_look(looks: list[int]) -> None:
    frames, truths = source(frames=3)
    frames = [frame.with_header(Header(seq=i, pts=i / 30)) for i, frame in enumerate(frames)]
    wrong = detected(truths[0] * 0.25 + np.float32([5, 5]), frames[0].header)
    seen = follow(frames, [wrong] * 3)  # repeated (join: hold), as no newer one comes
    assert [len(faces) for faces in seen] == [0, 0, 0]
    assert looks == [1]


def test_a_face_that_disappears_leaves_no_ghost_and_comes_back_with_its_id(looks: list[int]) -> None:
    frames, truths = source(frames=12, motion="still")
    blank = Frame(image=np.full_like(frames[0].image, 100))
    shown = [*frames[:4], *[blank] * 4, *frames[:4]]
    seen = follow(shown, [detected(truths[0])] + [None] * 11)
    assert [len(faces) for faces in seen] == [1] * 4 + [0] * 4 + [1] * 4
    assert seen[-1].ids[0] == seen[0].ids[0]
    assert seen[4].landmarks.shape == (0, 68, 2)
    assert looks == [1, 1, 1, 1, 1, 4, 1, 1, 1, 1, 1, 1, 1], "it is only searched around its place once"


@pytest.mark.parametrize("other", [True, False])
def test_another_face_in_the_same_place_after_a_cut_gets_a_new_id(other: bool) -> None:
    """The widened portrait has another shape; the same portrait on another background is the same face."""
    frames, truths = source(frames=1, width=640)
    x0, y0, x1, y1 = (tight(truths[0])[0] + [-25, -60, 25, 15]).astype(int)
    patches = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    elsewhere = cv2.resize(patches, (640, 360))
    face = frames[0].image[y0:y1, x0:x1]
    if other:
        beside = (x1 - x0) // 6
        face = cv2.resize(face[:, beside:-beside], (x1 - x0, y1 - y0))
    elsewhere[y0:y1, x0:x1] = face
    shown = [*frames * 2, *[Frame(image=np.asarray(elsewhere, np.uint8))] * 2]
    seen = follow(shown, [detected(truths[0]), None, None, None])
    assert [list(faces.ids) for faces in seen] == [[0], [0], [int(other)], [int(other)]]


def test_a_new_epoch_or_picture_size_forgets_the_tracks_and_never_their_ids() -> None:
    frames, truths = source(frames=2, motion="still")
    old = [frame.with_header(Header(seq=i, pts=i / 30)) for i, frame in enumerate(frames)]
    new = [frames[0].with_header(Header(seq=i, pts=i / 30, epoch=1)) for i in (2, 3)]
    larger = Frame(header=Header(seq=4, pts=0.2, epoch=1), image=cv2.resize(frames[0].image, (960, 720)))
    found = [detected(truths[0], old[0].header), None, None, detected(truths[0], new[1].header), None]
    seen = follow([*old, *new, larger], found)
    assert [list(faces.ids) for faces in seen] == [[0], [0], [], [1], []]
    stale = follow(new, [detected(truths[0], old[0].header), None])
    assert [len(faces) for faces in stale] == [0, 0]


def test_detector_and_landmarks_together() -> None:
    frames, truths = source(frames=30, width=640, height=480, copies=3, period=2.0)
    numbered = [frame.with_header(Header(seq=i, pts=i / 30)) for i, frame in enumerate(frames)]
    found = {message.seq: message for message in run_node(FaceDetector(every=5), frame=numbered)["faces"]}
    seen = follow(numbered, [found.get(i) for i in range(30)])  # type: ignore[misc]
    for faces, truth in zip(seen, truths, strict=True):
        assert list(faces.ids) == [0, 1, 2]
        eyes = np.linalg.norm(truth[:, 36] - truth[:, 45], axis=1)
        gaps = np.linalg.norm(faces.landmarks[:, None] - truth[None], axis=3).mean(2) / eyes
        assert sorted(gaps.argmin(1)) == [0, 1, 2]
        assert (gaps.min(1) < NME).all()


def test_uncertain_points_are_not_a_face(monkeypatch: pytest.MonkeyPatch) -> None:
    faces = Faces(
        ids=np.arange(2), boxes=np.float32([[0, 0, 100, 80]] * 2), scores=np.float32([1, 1]),
        landmarks=np.zeros((2, 68, 2), np.float32), spread=np.float32([[5] * 68, [30] * 68]),
        pose=np.zeros((2, 3), np.float32), states=np.zeros((2, 4), np.float32),
    )  # fmt: skip
    assert certain(faces).tolist() == [True, False]
    assert certain(Faces()).shape == (0,)
    frames, truths = source()
    assert len(follow(frames, [detected(truths[0])])[0]) == 1
    monkeypatch.setattr(landmarks, "VAGUE", 0.0)
    assert len(follow(frames, [detected(truths[0])])[0]) == 0
