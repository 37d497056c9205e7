"""The loop of the original project, with its stages and their cost, in one process.

Per frame: decode, a detector with the cost of RFB-320 on 320 x 240, a landmark network with the cost of Slim on a crop
of 160 x 160, pyramidal Lucas-Kanade flow of 68 points over the whole colour frame, head pose from ten points. The
networks have the documented layers and random weights; the face is assumed to be at `FACE`. Omitted, in favour of the
original: decoding of the boxes inside the network, its loops over points in Python, and drawing.
"""

import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

STATED_MS = {"detect": 12.5, "landmarks with smoothing": 19.2}
"""Per frame of face_720x1280.mp4 on a busy machine, as that project states them; without decoding."""
FACE = (0.25, 0.3, 0.75, 0.6)
"""Box of the face as a share of the picture's width and height."""
DEPTHWISE = [(32, 1), (32, 2), (32, 1), (64, 2), (64, 1), (64, 1), (64, 1), (128, 2), (128, 1), (128, 1), (256, 2),
             (256, 1)]  # fmt: skip
"""Output channels and stride of the depthwise separable blocks after the first convolution (16, stride 2)."""
TAPS = (6, 9, 11)  # the last block of 64, of 128 and of 256 channels
FLOW = {
    "winSize": (40, 40),
    "maxLevel": 8,  # nine levels
    "criteria": (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 5, 0.1),
}
MODEL_POINTS = np.array(
    [(6.825897, 6.760612, 4.402142), (1.330353, 7.122144, 6.903745), (-1.330353, 7.122144, 6.903745),
     (-6.825897, 6.760612, 4.402142), (5.311432, 5.485328, 3.987654), (1.789930, 5.393625, 4.413414),
     (-1.789930, 5.393625, 4.413414), (-5.311432, 5.485328, 3.987654), (2.005628, 1.409845, 6.165652),
     (-2.005628, 1.409845, 6.165652)])  # fmt: skip
MODEL_LANDMARKS = (17, 21, 22, 26, 36, 39, 42, 45, 31, 35)


class Builder:
    """An ONNX graph that grows layer by layer, with random weights (batch norm counts as folded)."""

    def __init__(self, height: int, width: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)
        self.input = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, height, width])

    def conv(self, x: str, channels: tuple[int, int], size: int = 1, stride: int = 1, groups: int = 1,
             dilation: int = 1, relu: bool = True) -> str:  # fmt: skip
        before, after = channels
        name = f"c{len(self.nodes)}"
        deviation = (2 / (before // groups * size * size)) ** 0.5
        self._weight(f"{name}.w", self.random.normal(0, deviation, (after, before // groups, size, size)))
        self._weight(f"{name}.b", np.zeros(after))
        pad = dilation * (size // 2)
        self.nodes.append(
            helper.make_node("Conv", [x, f"{name}.w", f"{name}.b"], [name], strides=[stride] * 2, pads=[pad] * 4,
                             group=groups, dilations=[dilation] * 2, kernel_shape=[size] * 2)
        )  # fmt: skip
        return self.node("Relu", [name]) if relu else name

    def separable(self, x: str, before: int, after: int, stride: int = 1, relu: bool = True) -> str:
        return self.conv(self.conv(x, (before, before), 3, stride, before), (before, after), relu=relu)

    def node(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def _weight(self, name: str, values: NDArray[Any]) -> None:
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))

    def backbone(self, rfb: bool) -> list[str]:
        """Add the layers up to 256 channels; return the outputs of the blocks in TAPS."""
        x, channels, taps = self.conv("image", (3, 16), 3, 2), 16, []
        for index, (after, stride) in enumerate(DEPTHWISE):
            fields = rfb and index == TAPS[0]  # the detector has receptive fields instead of this block
            x = self.receptive_fields(x) if fields else self.separable(x, channels, after, stride)
            channels = after
            if index in TAPS:
                taps.append(x)
        return taps

    def receptive_fields(self, x: str) -> str:
        """Add the block of three dilated branches from 64 to 64 channels."""
        branches = []
        for widths, dilation in (((8, 16), 2), ((8, 16), 3), ((8, 12, 16), 5)):
            y, before = self.conv(x, (64, widths[0]), relu=False), widths[0]
            for after in widths[1:]:
                y, before = self.conv(y, (before, after), 3), after
            branches.append(self.conv(y, (16, 16), 3, dilation=dilation, relu=False))
        joined = self.conv(self.node("Concat", branches, axis=1), (48, 64), relu=False)
        return self.node("Relu", [self.node("Add", [joined, self.conv(x, (64, 64), relu=False)])])

    def session(self, outputs: list[str]) -> onnxruntime.InferenceSession:
        """Finish and load the network as the original did: with onnxruntime's defaults, which use every core."""
        declared = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", [self.input], declared, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def detector() -> onnxruntime.InferenceSession:
    """Return a network of RFB-320's cost: four maps with scores and boxes of two or three anchors."""
    build = Builder(240, 320)
    taps = build.backbone(rfb=True)
    extra = build.conv(taps[-1], (256, 64))
    taps.append(build.conv(build.conv(extra, (64, 64), 3, 2, 64), (64, 256)))
    outputs = []
    for x, channels, anchors in zip(taps, (64, 128, 256, 256), (3, 2, 2, 3), strict=True):
        outputs += [build.separable(x, channels, anchors * values, relu=False) for values in (2, 4)]
    return build.session(outputs)


def landmarker() -> onnxruntime.InferenceSession:
    """Return a network of Slim's cost: means of three maps, one linear layer to 143 numbers."""
    build = Builder(160, 160)
    means = [build.node("GlobalAveragePool", [tap]) for tap in build.backbone(rfb=False)]
    return build.session([build.conv(build.node("Concat", means, axis=1), (448, 143), relu=False)])


class Loop:
    """One run over a clip, frame by frame."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.detector, self.landmarker = detector(), landmarker()
        self.spent: dict[str, float] = {}

    def run(self) -> dict[str, float]:
        """Return frames per second, and milliseconds per frame by stage."""
        self.spent = dict.fromkeys(("decode", "detect", "landmarks", "flow", "pose"), 0.0)
        video = cv2.VideoCapture(str(self.path))
        previous: NDArray[Any] | None = None
        frames, start = 0, time.perf_counter()
        while True:
            good, frame = self._timed("decode", video.read)
            if not good:
                break
            self._timed("detect", lambda frame=frame: self._detect(frame))
            points = self._timed("landmarks", lambda frame=frame: self._landmarks(frame))
            if previous is not None:
                self._timed(
                    "flow", lambda a=previous, b=frame, p=points: cv2.calcOpticalFlowPyrLK(a, b, p, None, **FLOW)
                )
            previous = frame.copy()
            self._timed("pose", lambda frame=frame, points=points: self._pose(frame, points))
            frames += 1
        elapsed = time.perf_counter() - start
        if not frames:
            raise SystemExit(f"{self.path.absolute()} contains no frame: is it a video?")
        stages = {f"{stage}_ms": 1e3 * seconds / frames for stage, seconds in self.spent.items()}
        return {"fps": frames / elapsed, "frames": frames, **stages}

    def _timed(self, stage: str, call: Any) -> Any:
        start = time.perf_counter()
        result = call()
        self.spent[stage] += time.perf_counter() - start
        return result

    def _detect(self, frame: NDArray[Any]) -> None:
        rgb = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), (320, 240))
        self.detector.run(None, {"image": _to_input(rgb)})

    def _landmarks(self, frame: NDArray[Any]) -> NDArray[np.float32]:
        """Run the network on the face; return points spread over it, (68, 1, 2)."""
        height, width = frame.shape[:2]
        x0, y0, x1, y1 = (np.array(FACE) * (width, height, width, height)).astype(int)
        self.landmarker.run(None, {"image": _to_input(cv2.resize(frame[y0:y1, x0:x1], (160, 160)))})
        shares = np.random.default_rng(1).uniform(0, 1, (68, 1, 2))
        return ((x0, y0) + shares * (x1 - x0, y1 - y0)).astype(np.float32)

    def _pose(self, frame: NDArray[Any], points: NDArray[np.float32]) -> None:
        height, width = frame.shape[:2]
        camera = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]], np.float64)
        cv2.solvePnP(MODEL_POINTS, points[list(MODEL_LANDMARKS), 0].astype(np.float64), camera, None)


def _to_input(picture: NDArray[Any]) -> NDArray[np.float32]:
    return ((picture.astype(np.float32) - 127) / 128).transpose(2, 0, 1)[None]
