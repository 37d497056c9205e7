"""Head pose compared with heads that were turned, moved and projected by definition."""

import numpy as np
import pytest

from nodes._pose import RIGID, WIDEST_FOV, angles, camera_matrix, head_pose

CAMERA = camera_matrix(1280, 720, fov=60)


def rotation(pitch: float, yaw: float, roll: float) -> np.ndarray:
    """Rz(roll) @ Ry(yaw) @ Rx(pitch), written out."""
    p, y, r = np.radians([pitch, yaw, roll])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def project(pose: tuple[float, float, float], place: tuple[float, float, float], camera=CAMERA) -> np.ndarray:
    """68 points (68, 2): the rigid ones projected, all others far away, where they must not matter."""
    points = np.full((68, 2), -1e4, np.float32)
    at = np.array(list(RIGID.values())) @ rotation(*pose).T + place
    points[list(RIGID)] = (at @ camera.T)[:, :2] / at[:, 2:]
    return points


SINGLE = [(0, 0, 0), (20, 0, 0), (-25, 0, 0), (0, 40, 0), (0, -60, 0), (0, 0, 30), (0, 0, -80)]
POSES = [*SINGLE, (10, -35, 20), (-15, 50, -40)]


@pytest.mark.parametrize("place", [(0, 0, 600), (250, -120, 700), (-100, 80, 3000)])
def test_recovers_the_pose_of_a_projected_head(place: tuple[float, float, float]) -> None:
    faces = np.array([project(pose, place) for pose in POSES])
    np.testing.assert_allclose(head_pose(faces, CAMERA), POSES, atol=0.2)


def test_the_signs_are_as_documented() -> None:
    frontal, down, left, clockwise = (
        project(pose, (0, 0, 600)) for pose in [(0, 0, 0), (20, 0, 0), (0, 20, 0), (0, 0, 20)]
    )
    nose, left_eye, right_eye = 30, 36, 45
    eyes = [face[[left_eye, right_eye]].mean(0) for face in (frontal, down, left)]
    assert down[nose, 1] - eyes[1][1] > frontal[nose, 1] - eyes[0][1], "looking down brings the nose down"
    assert left[nose, 0] - eyes[2][0] < -5, "turning to the image's left brings the nose there"
    assert clockwise[right_eye, 1] > clockwise[left_eye, 1], "clockwise lowers the eye on the image's right"


def test_the_error_grows_with_the_noise_and_no_face_flips() -> None:
    rng = np.random.default_rng(1)
    poses = rng.uniform([-25, -50, -45], [25, 50, 45], (100, 3))
    faces = np.array([project(tuple(pose), (0, 0, 700)) for pose in poses])
    size = np.linalg.norm(faces[:, 36] - faces[:, 45], axis=1).mean()
    noisy = faces + rng.normal(0, 0.01 * size, faces.shape).astype(np.float32)
    errors = np.abs(head_pose(noisy, CAMERA) - poses)
    assert (np.median(errors, 0) < [1.2, 1.2, 0.7]).all()
    assert errors.max() < 10


def test_a_head_that_turns_about_all_axes_is_followed_without_a_jump() -> None:
    """Five seconds at 30 fps: a full turn in roll, profile views, the noise of landmark networks."""
    rng = np.random.default_rng(2)
    turn = np.linspace(0, 2 * np.pi, 150)
    true = np.degrees(np.stack((0.4 * np.sin(2 * turn), 1.0 * np.sin(turn), turn), 1))
    faces = np.array([project(tuple(pose), (60, -40, 700)) for pose in true])
    size = np.linalg.norm(faces[0, 36] - faces[0, 45])
    found = head_pose(faces + rng.normal(0, 0.007 * size, faces.shape).astype(np.float32), CAMERA)
    off = (found - true + 180) % 360 - 180
    assert np.abs(off).max() < 8
    assert np.abs(np.diff(off, axis=0)).max() < 10


def test_the_field_of_view_matters() -> None:
    """A face away from the centre of a wide picture seems turned if the field of view is assumed narrow."""
    wide, narrow = camera_matrix(1280, 720, fov=90), camera_matrix(1280, 720, fov=40)
    face = project((0, 0, 0), (300, 0, 500), wide)[None]
    assert np.abs(head_pose(face, wide)).max() < 0.5
    assert np.abs(head_pose(face, narrow)).max() > 5


def test_heads_anywhere_in_the_widest_picture() -> None:
    rng = np.random.default_rng(3)
    camera = camera_matrix(1280, 720, WIDEST_FOV)
    poses = rng.uniform([-25, -50, -45], [25, 50, 45], (300, 3))
    middles = rng.uniform([0, 0], [1280, 720], (300, 2))
    depths = rng.uniform(300, 1500, (300, 1))
    places = np.concatenate(((middles - camera[:2, 2]) / camera[0, 0], np.ones((300, 1))), 1) * depths
    faces = np.array([project(tuple(pose), tuple(place), camera) for pose, place in zip(poses, places, strict=True)])
    assert np.abs(head_pose(faces, camera) - poses).max() < 0.1


@pytest.mark.parametrize("millimetres", [2e4, 1e5])
def test_a_small_face_in_a_large_picture(millimetres: float) -> None:
    camera = camera_matrix(3840, 2160, fov=60)
    faces = np.array([project(pose, (0, 0, millimetres), camera) for pose in POSES])
    np.testing.assert_allclose(head_pose(faces, camera), POSES, atol=0.5)


def test_the_camera_sees_half_the_field_of_view_to_each_side() -> None:
    camera = camera_matrix(720, 1280, fov=60)
    edge = np.array([0, np.tan(np.radians(30)), 1])
    assert (camera @ edge)[1] == pytest.approx(1280 - 0.5)


def test_angles_of_a_face_turned_in_the_image_plane() -> None:
    assert angles(rotation(0, 0, 90)[None])[0] == pytest.approx((0, 0, 90))


def test_the_camera_looks_at_the_centre_of_the_picture_and_rounding_makes_no_angle_nan() -> None:
    assert camera_matrix(640, 480, 60)[:2, 2].tolist() == [319.5, 239.5]
    beyond = rotation(0, 90, 0)
    beyond[2, 0] -= 1e-12
    assert angles(beyond[None])[0, 1] == pytest.approx(90)


def test_an_unknown_pose_is_nan_and_no_face_gives_no_row() -> None:
    points = np.zeros((2, 68, 2), np.float32)
    points[1] = np.nan
    assert np.isnan(head_pose(points, CAMERA)).all()
    assert head_pose(points[:0], CAMERA).shape == (0, 3)


def test_arbitrary_points_give_some_pose_or_nan() -> None:
    """On a line, anywhere, or far beyond the picture, where the equations have no solution."""
    rng = np.random.default_rng(3)
    for spread in (1, 100, 1e4, 1e7):
        points = rng.normal(400, spread, (500, 68, 2)).astype(np.float32)
        points[:250, :, 1] = points[:250, :, 0] / 2
        poses = head_pose(points, CAMERA)
        assert (np.abs(poses[np.isfinite(poses).all(1)]) <= 180).all()
        assert np.isfinite(poses).all() == (spread < 1e4)
