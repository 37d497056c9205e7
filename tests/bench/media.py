"""Compare decoding and encoding with plain PyAV: python -m tests.bench.media VIDEO... [--repeats N]

`cpu` is CPU time per frame in all threads: the number to compare on a machine that also does other work.
Decoding: plain PyAV (`decode` + `to_ndarray`), the same into an array that another process will see, and Capture.
Encoding: PyAV fed with BGR frames, and Record; both x264 superfast, crf 23, without delay.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from graph import Frame, Header
from nodes.capture import Capture
from nodes.record import Record
from tests.bench._measure import console, head, interleave, median, ratio, table

ENCODED_FRAMES = 90

Image = NDArray[np.uint8]


def per_frame(work: Callable[[], int]) -> Mapping[str, float]:
    """Return frames per second and CPU ms per frame of work that returns its number of frames."""
    wall, cpu = time.perf_counter(), time.process_time()
    frames = work()
    return {"fps": frames / (time.perf_counter() - wall), "cpu": (time.process_time() - cpu) / frames * 1e3}


def decode_plain(path: Path, copied: bool) -> int:
    target: Image | None = None
    frames = 0
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for frame in container.decode(video=0):
            image = frame.to_ndarray(format="bgr24")
            if copied:
                target = np.empty_like(image) if target is None else target
                np.copyto(target, image)
            frames += 1
    return frames


def decode_ours(path: Path) -> int:
    node = Capture(uri=str(path))
    arrays: list[Image] = []

    def allocate(shape: tuple[int, ...], dtype: np.dtype[np.uint8]) -> Image:
        if len(arrays) < 8:  # as many slots as an edge keeps in shared memory
            arrays.append(np.empty(shape, dtype))
            return arrays[-1]
        arrays.append(arrays.pop(0))
        return arrays[-1]

    node.__dict__["_allocate"] = allocate
    node.open()
    try:
        return sum(1 for _ in node.process())
    finally:
        node.close()


def encode_plain(images: list[Image], path: Path) -> int:
    with av.open(str(path), "w") as container:
        options = {
            "preset": "superfast",
            "crf": "23",
            "tune": "zerolatency",
            "threads": str(min(4, os.cpu_count() or 1)),
        }
        stream = container.add_stream("libx264", rate=30, options=options)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode(None))
    return len(images)


def encode_ours(images: list[Image], path: Path) -> int:
    node = Record(path=str(path))
    node.open()
    for index, image in enumerate(images):
        node.process(Frame(image=image, header=Header(pts=index / 30)))
    node.close()
    return len(images)


def first_images(path: Path, count: int) -> list[Image]:
    frames = Capture(uri=str(path))
    frames.open()
    try:
        return [frame.image for frame, _ in zip(frames.process(), range(count), strict=False)]
    finally:
        frames.close()


def compare(title: str, runs: Mapping[str, Callable[[], int]], floor: str, repeats: int) -> None:
    results = interleave({name: partial(per_frame, work) for name, work in runs.items()}, repeats)
    rows = table(title, "fps", "cpu ms/frame", f"cpu / {floor}")
    for name, found in results.items():
        rows.add_row(
            name,
            f"{median(found, 'fps'):.0f}",
            f"{median(found, 'cpu'):.2f}",
            f"{ratio(found, results[floor], 'cpu'):.2f}",
        )
    console.print(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    head("Decoding and encoding")
    for video in given.videos:
        decoders = {
            "PyAV": partial(decode_plain, video, False),
            "PyAV, copied": partial(decode_plain, video, True),
            "Capture": partial(decode_ours, video),
        }
        compare(f"decode {video.name}", decoders, "PyAV, copied", given.repeats)
        images = first_images(video, ENCODED_FRAMES)
        with tempfile.TemporaryDirectory() as folder:
            encoders = {
                "PyAV": partial(encode_plain, images, Path(folder, "plain.mp4")),
                "Record": partial(encode_ours, images, Path(folder, "ours.mp4")),
            }
            compare(f"encode {images[0].shape[1]} x {images[0].shape[0]}", encoders, "PyAV", given.repeats)


if __name__ == "__main__":
    main()
