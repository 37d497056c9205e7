"""The face detector on the public-domain portrait, moved, repeated and removed."""

from typing import Any

import numpy as np
import pytest

from graph import Detections, Frame, Header
from graph.testing import run_node
from nodes import detect
from nodes._boxes import letterbox, overlaps
from nodes._windows import turned, turned_back
from nodes.detect import FaceDetector, FaceModel, most_upright
from nodes.source import TestSource
from tests.portrait import tight, true_points

EYES_NOSE_MOUTH = [slice(36, 42), slice(42, 48), slice(30, 31), slice(48, 49), slice(54, 55)]


def source(**settings: Any) -> dict[str, list[Any]]:
    return run_node(TestSource(**{"width": 640, "height": 480} | settings))


def face_boxes(landmarks: np.ndarray) -> np.ndarray:
    """Boxes that a detector should find for faces with these landmarks (F, 68, 2): with the forehead, by eye."""
    boxes = tight(landmarks)
    boxes[:, 1] -= 0.35 * (boxes[:, 3] - boxes[:, 1])
    return boxes


@pytest.fixture(scope="module")
def model() -> FaceModel:
    return FaceModel()


class Scripted:
    """A model that gives the next of prepared boxes and scores in each search."""

    def __init__(self, *searches: tuple[list[np.ndarray], list[float]]) -> None:
        self.searches = iter(searches)

    def detect(self, *_: object, **__: object) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        boxes, scores = next(self.searches)
        return np.array(boxes), np.array(scores, np.float32), np.zeros((len(boxes), 5, 2), np.float32)


def scripted(*searches: tuple[list[np.ndarray], list[float]], **settings: Any) -> FaceDetector:
    """Return an open detector that only searches in every frame, with a scripted model."""
    detector = FaceDetector(every=1, scene=0.0, lost=-1.0, **settings)
    detector.open()
    detector._model = Scripted(*searches)  # type: ignore[assignment]
    return detector


HERE, THERE = np.array([[10, 10, 60, 60], [200, 10, 250, 60]], np.float32)


def test_finds_the_portrait_with_its_points(model: FaceModel) -> None:
    shot = source(frames=1)
    boxes, scores, points = model.detect(shot["frame"][0].image)
    truth = true_points(shot["truth"][0])
    assert boxes.shape == (1, 4) and scores.shape == (1,) and points.shape == (1, 5, 2)
    assert boxes.dtype == scores.dtype == points.dtype == np.float32
    assert overlaps(boxes, face_boxes(truth))[0, 0] > 0.5
    expected = np.array([truth[0, part].mean(0) for part in EYES_NOSE_MOUTH])
    size = np.linalg.norm(truth[0, 36] - truth[0, 45])
    assert np.linalg.norm(points[0] - expected, axis=1).max() < 0.3 * size


@pytest.mark.parametrize(("width", "height"), [(1920, 1080), (720, 1280), (317, 241)])
def test_boxes_are_in_pixels_of_the_frame_whatever_its_size(model: FaceModel, width: int, height: int) -> None:
    shot = source(frames=1, width=width, height=height)
    boxes, _, _ = model.detect(shot["frame"][0].image)
    assert overlaps(boxes, face_boxes(true_points(shot["truth"][0])))[0, 0] > 0.5


def test_finds_several_faces_best_first_and_limits_them(model: FaceModel) -> None:
    shot = source(frames=1, width=1280, height=720, copies=6)
    boxes, scores, _ = model.detect(shot["frame"][0].image)
    truth = face_boxes(true_points(shot["truth"][0]))
    assert len(boxes) == 6
    assert (overlaps(boxes, truth).max(0) > 0.5).all()
    assert (np.diff(scores) <= 0).all()
    best, _, _ = model.detect(shot["frame"][0].image, max_faces=2)
    np.testing.assert_array_equal(best, boxes[:2])
    side = (boxes[:, 2:] - boxes[:, :2]).max(1)
    large, _, _ = model.detect(shot["frame"][0].image, min_face=float(side.max()) - 0.01)
    assert len(large) == 1


@pytest.mark.parametrize("size", [320, 640])
def test_a_face_that_fills_the_frame_is_found_at_any_size(model: FaceModel, size: int) -> None:
    shot = source(frames=1, width=640, height=640, size=1.5)
    truth = face_boxes(true_points(shot["truth"][0]))
    assert truth[0, 3] - truth[0, 1] > 350  # pixels: more than the network was trained on
    boxes, scores, _ = model.detect(shot["frame"][0].image, size=size)
    assert overlaps(boxes[:1], truth)[0, 0] > 0.5 and scores[0] > 0.9


@pytest.mark.parametrize("size", [320, 640])
def test_a_face_that_fills_an_upright_picture_is_found_once(model: FaceModel, size: int) -> None:
    shot = source(frames=1, width=480, height=640, size=2.2)
    truth = face_boxes(true_points(shot["truth"][0]))
    assert truth[0, 3] - truth[0, 1] > 480  # three quarters of the height, and the full width
    boxes, scores, _ = model.detect(shot["frame"][0].image, size=size)
    assert len(boxes) == 1 and overlaps(boxes, truth)[0, 0] > 0.5 and scores[0] > 0.9


@pytest.mark.parametrize(
    ("shown", "size", "searched"),
    [(0.5, 320, [320]), (1.8, 320, [320, 160]), (0, 320, [320, 160]), (0, 160, [160]), (0.5, 480, [480, 320, 160])],
)
def test_a_picture_is_searched_again_if_a_face_may_be_too_large_for_the_network(
    model: FaceModel, shown: float, size: int, searched: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a face gives a large box on a part of it, or none; a small box shows that there is no such face."""
    sizes: list[int] = []

    def fitted(image: np.ndarray, sides: tuple[int, int]) -> tuple[np.ndarray, float, np.ndarray]:
        sizes.append(sides[0])
        return letterbox(image, sides)

    monkeypatch.setattr(detect, "letterbox", fitted)
    picture = source(frames=1, size=shown)["frame"][0].image if shown else np.full((480, 640, 3), 90, np.uint8)
    boxes, _, _ = model.detect(picture, size=size)
    assert len(boxes) == (shown > 0) and sizes == searched


def test_a_face_at_a_cut_edge_is_left_to_the_other_tile(
    model: FaceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every search finds a face at its right edge; only those at the edge of the picture are kept."""
    face = np.float32([[280, 60, 325, 105]])
    monkeypatch.setattr(detect, "decode", lambda *_: (face, np.float32([0.9]), np.zeros((1, 5, 2), np.float32)))
    boxes, _, _ = model.detect(np.full((480, 640, 3), 90, np.uint8), tiles=2)
    assert len(boxes) > 0 and (boxes[:, 2] >= 640).all()


def test_no_face_gives_empty_arrays(model: FaceModel) -> None:
    for height, width in ((480, 640), (40, 30), (1, 1)):
        boxes, scores, points = model.detect(np.full((height, width, 3), 90, np.uint8))
        assert boxes.shape == (0, 4) and scores.shape == (0,) and points.shape == (0, 5, 2)


NO_PICTURES = [
    (np.zeros((4, 4), np.uint8), r"found uint8 \(4, 4\); cv2.cvtColor\(image, cv2.COLOR_GRAY2BGR\) converts it$"),
    (np.zeros((4, 5, 1), np.uint8), r"found uint8 \(4, 5, 1\); cv2.cvtColor\(image, cv2.COLOR_GRAY2BGR\) converts it$"),
    (np.zeros((4, 4, 4), np.uint8), r"found uint8 \(4, 4, 4\); cv2.cvtColor\(image, cv2.COLOR_BGRA2BGR\) converts it$"),
    (np.zeros((4, 4, 3)), r"found float64 \(4, 4, 3\); \(image \* 255\).astype\(np.uint8\) converts one from 0 to 1$"),
    (np.zeros((4, 4, 3), np.uint16), r"found uint16 \(4, 4, 3\)$"),
    (np.zeros((0, 4), np.uint8), r"found uint8 \(0, 4\)$"),
    (np.zeros((), np.uint8), r"found uint8 \(\)$"),
    ("group.jpg", "found str$"),
    (None, "found None: cv2.imread returns that if a file is missing or not a picture$"),
]


@pytest.mark.parametrize(("wrong", "found"), NO_PICTURES)
def test_other_arrays_are_refused_with_how_to_convert_them(model: FaceModel, wrong: Any, found: str) -> None:
    with pytest.raises(ValueError, match=r"^expected a BGR picture, a numpy array uint8 \(H, W, 3\), " + found):
        model.detect(wrong)


def test_the_node_searches_every_nth_frame_and_when_the_scene_changes() -> None:
    grey = Frame(image=np.full((120, 160, 3), 90, np.uint8))
    dark = Frame(image=np.full((120, 160, 3), 20, np.uint8))
    frames = [grey] * 7 + [dark] * 6
    said = run_node(FaceDetector(every=4), frame=frames)["faces"]
    assert [message.seq for message in said] == [0, 4, 7, 11]
    blind = run_node(FaceDetector(every=4, scene=0.0), frame=frames)["faces"]
    assert [message.seq for message in blind] == [0, 4, 8, 12]


def test_the_node_searches_when_a_camera_reconnects_or_changes_its_size() -> None:
    small, large = (np.full(shape, 90, np.uint8) for shape in ((120, 160, 3), (240, 320, 3)))
    shown = [(0, small), (0, small), (1, small), (1, small), (1, large), (1, large)]
    frames = [Frame(header=Header(seq=i, epoch=epoch), image=image) for i, (epoch, image) in enumerate(shown)]
    said = run_node(FaceDetector(every=100), frame=frames)["faces"]
    assert [message.seq for message in said] == [0, 2, 4]


def test_a_window_limits_the_search_and_sizes_the_faces(model: FaceModel) -> None:
    shot = source(frames=1, width=1280, height=720, copies=6)
    image = shot["frame"][0].image
    boxes, _, _ = model.detect(image)
    left, _, _ = model.detect(image, window=(0, 0, 640, 720))
    middle = (boxes[:, 0] + boxes[:, 2]) / 2
    assert 0 < len(left) < 6 and (overlaps(boxes[middle < 600], left).max(1) > 0.5).all()
    side = (boxes[:, 2:] - boxes[:, :2]).max(1)
    assert len(model.detect(image, max_face=float(side.max()) - 0.01)[0]) == 5
    with pytest.raises(ValueError, match="window: expected x0 < x1"):
        model.detect(image, window=(0, 0, 1281, 720))


@pytest.mark.parametrize(
    ("name", "least", "wrong"),
    [("size", 1, 0), ("size", 1, -9), ("tiles", 1, 0), ("tiles", 1, 1.5), ("max_faces", 0, -1), ("max_faces", 0, 2.5)],
)
def test_invalid_numbers_are_refused(
    model: FaceModel, name: str, least: int, wrong: Any
) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected a whole number, {least} or more, found {wrong}$"):
        model.detect(np.zeros((48, 64, 3), np.uint8), **{name: wrong})


def test_tiles_find_small_faces_in_large_pictures(model: FaceModel) -> None:
    shot = source(frames=1, width=3840, height=2160, copies=12, size=0.2)
    image, truth = shot["frame"][0].image, face_boxes(true_points(shot["truth"][0]))
    assert (truth[:, 3] - truth[:, 1]).max() < 100  # pixels: 8 px at 320 px of width
    whole, _, _ = model.detect(image)
    tiled, _, _ = model.detect(image, tiles=4)
    assert not len(whole) or (overlaps(truth, whole).max(1) > 0.5).sum() < 6
    assert (overlaps(truth, tiled[:12]).max(1) > 0.5).all()


def test_a_face_across_tiles_is_found_once(model: FaceModel) -> None:
    shot = source(frames=1, width=1280, height=720)  # in the middle, over several tiles
    truth = face_boxes(true_points(shot["truth"][0]))
    for tiles in (2, 3, 4):
        boxes, _, _ = model.detect(shot["frame"][0].image, tiles=tiles)
        inside = (boxes[:, :2] >= truth[0, :2] - 20).all(1) & (boxes[:, 2:] <= truth[0, 2:] + 20).all(1)
        assert inside.sum() == 1 and overlaps(boxes, truth)[0, 0] > 0.5


@pytest.mark.parametrize("quarter", [1, -1])
def test_sideways_finds_people_lying_down(model: FaceModel, quarter: int) -> None:
    shot = source(frames=1)
    upright = shot["frame"][0].image
    image = turned(upright, quarter)
    boxes, scores, points = model.detect(image, sideways=True)
    truth = true_points(shot["truth"][0])
    boxes, points = (turned_back(x.reshape(1, -1, 2), quarter, 640, 480) for x in (boxes, points))
    assert len(scores) == 1 and scores[0] > 0.9
    expected = np.array([truth[0, part].mean(0) for part in EYES_NOSE_MOUTH])
    size = np.linalg.norm(truth[0, 36] - truth[0, 45])
    assert np.linalg.norm(points[0] - expected, axis=1).max() < 0.35 * size


def test_the_node_searches_at_once_when_a_face_is_lost() -> None:
    image = source(frames=1)["frame"][0].image
    gone = np.full_like(image, 90)
    frames = [Frame(image=shown) for shown in [image] * 4 + [gone] * 4]
    said = run_node(FaceDetector(every=100, scene=0.0), frame=frames)["faces"]
    assert [(message.seq, len(message.boxes)) for message in said] == [(0, 1), (4, 0)]
    blind = run_node(FaceDetector(every=100, scene=0.0, lost=-1.0), frame=frames)["faces"]
    assert [message.seq for message in blind] == [0]


def test_new_faces_come_from_the_region_and_known_ones_may_leave_it() -> None:
    frames = source(frames=28, fps=15.0, motion="triangle", period=2.0, pan=0.3)["frame"]
    x = [boxes[0, [0, 2]].mean() for message in run_node(FaceDetector(), frame=frames)["faces"]
         if len(boxes := message.boxes)]
    assert min(x) < 240 and max(x) > 400  # it crosses the picture
    said = run_node(FaceDetector(region=(0.7, 0.0, 1.0, 1.0)), frame=frames)["faces"]
    middles = [float(message.boxes[0, [0, 2]].mean()) if len(message.boxes) else None for message in said]
    seen = [middle for middle in middles if middle is not None]
    assert middles[0] is None and seen[0] > 0.7 * 640 - 1  # found when it enters the region
    assert None not in middles[middles.index(seen[0]) :] and min(seen) < 300  # kept when it leaves


def test_of_two_faces_with_similar_scores_the_known_one_is_kept() -> None:
    """A known face with a low score gives way to a new one."""
    image = source(frames=1)["frame"][0].image
    searches = [([HERE, THERE], [0.95, 0.94]), ([THERE, HERE], [0.96, 0.95]), ([THERE, HERE], [0.96, 0.6])]
    detector = scripted(*searches, max_faces=1)
    said = [detector.process(Frame(image=image)).boxes[0, 0] for _ in range(3)]
    assert said == [HERE[0], HERE[0], THERE[0]]


def test_faces_are_returned_best_first_known_or_not() -> None:
    image = source(frames=1)["frame"][0].image
    detector = scripted(([HERE], [0.9]), ([THERE, HERE], [0.95, 0.9]))
    said = [detector.process(Frame(image=image)).scores.tolist() for _ in range(2)]
    assert said == [pytest.approx([0.9]), pytest.approx([0.95, 0.9])]


def test_a_face_of_another_epoch_may_not_leave_the_region() -> None:
    image = source(frames=1)["frame"][0].image
    inside, outside = np.array([[280, 100, 380, 200], [260, 100, 360, 200]], np.float32)  # the middle is at 320
    detector = scripted(*(([box], [0.9]) for box in (inside, outside, outside)), region=(0.5, 0.0, 1.0, 1.0))
    said = [detector.process(Frame(header=Header(epoch=epoch), image=image)) for epoch in (0, 0, 1)]
    assert [len(one.boxes) for one in said] == [1, 1, 0]


def test_an_empty_region_is_refused_before_anything_starts() -> None:
    with pytest.raises(ValueError, match=r"region: expected .* found \[0\.5, 0\.0, 0\.5, 1\.0\]"):
        FaceDetector(region=(0.5, 0.0, 0.5, 1.0))


def test_a_missing_model_is_refused_before_anything_starts() -> None:
    with pytest.raises(FileNotFoundError, match=r"no network file .*/nowhere/faces\.mnn"):
        FaceDetector(model="nowhere/faces", backend="mnn")


def test_noise_is_not_a_change_of_scene() -> None:
    frames = source(frames=6, noise=12, motion="still")["frame"]
    said = run_node(FaceDetector(every=100), frame=frames)["faces"]
    assert [message.seq for message in said] == [0]


def test_the_node_returns_what_the_model_finds(model: FaceModel) -> None:
    frame = source(frames=1)["frame"][0]
    said = run_node(FaceDetector(), frame=[Frame(header=Header(seq=0), image=frame.image)])["faces"][0]
    assert isinstance(said, Detections)
    boxes, _, points = model.detect(frame.image)
    np.testing.assert_array_equal(said.boxes, boxes)
    np.testing.assert_array_equal(said.points, points)


def test_the_node_searches_with_all_its_settings() -> None:
    asked: dict[str, Any] = {}

    class Model:
        def detect(self, *given: object, **named: object) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            asked.update(named, given=given[1:])
            return np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 5, 2), np.float32)

    detector = FaceDetector(threshold=0.7, size=480, min_face=9, max_face=99, tiles=3, sideways=True)
    detector.open()
    detector._model = Model()
    detector.process(Frame(image=np.zeros((48, 64, 3), np.uint8)))
    window = (0, 0, 64, 48)
    assert asked == {"given": (0.7, 480, 9), "max_face": 99, "window": window, "tiles": 3, "sideways": True}


@pytest.mark.parametrize("lean", [-38, 0, 38])  # degrees, clockwise; with 45 it would be as upright in another search
@pytest.mark.parametrize("upright", [0, 1, 2])
def test_of_a_face_found_three_times_the_most_upright_one_is_kept(upright: int, lean: float) -> None:
    """It follows from the vector from the centre of the eyes to that of the mouth, not from single points."""
    angle = np.radians(lean + (0, -90, 90)[upright])  # of the face, which is upright in search 0, 1 or 2
    down = 20 * np.float32((-np.sin(angle), np.cos(angle)))
    along = np.float32((down[1], -down[0]))
    middle = np.float32((60, 60))
    eyes, mouth = [middle - down - along, middle - down + along], [middle + down - along, middle + down + along]
    face = np.stack([*eyes, middle, *mouth])
    box = np.array([[20, 20, 100, 100]], np.float32)
    found = [(box, np.float32([0.8 + 0.01 * (i != upright)]), face[None] + np.float32(i)) for i in range(3)]
    boxes, scores, points = most_upright(found)
    assert len(boxes) == 1 and scores[0] == np.float32(0.8)
    np.testing.assert_array_equal(points[0], face + upright)


def test_a_tilted_face_with_a_higher_score_comes_first() -> None:
    upright = np.float32([[-10, -10], [10, -10], [0, 0], [-10, 10], [10, 10]])
    lying = upright[:, ::-1] * [-1, 1]
    boxes, points = np.float32([[0, 0, 40, 40], [100, 0, 140, 40]]), np.float32([upright, lying])
    nobody = boxes[:0], np.zeros(0, np.float32), points[:0]
    _, scores, _ = most_upright([(boxes, np.float32([0.8, 0.9]), points), nobody, nobody])
    assert scores.tolist() == pytest.approx([0.9, 0.8])
