// The live picture, and the faces drawn over it.

import { drawLabels } from "./labels.js";

// Lines through iBUG's 68 points, and whether they are closed. Lips are open arcs, so that corners stay sharp.
const CONTOURS = [
  [range(0, 16), false], [range(17, 21), false], [range(22, 26), false], [range(27, 30), false], [range(31, 35), false],
  [range(36, 41), true], [range(42, 47), true],
  [range(48, 54), false], [[...range(54, 59), 48], false], [range(60, 64), false], [[...range(64, 67), 60], false],
];
const COLOURS = ["#46ecd6", "#ffde50", "#d69cff", "#8cf06e", "#60c4ff", "#ffaa5c", "#fafafa", "#ff82be", "#dcff78", "#968cff"];
const AXES = ["#ff5050", "#5adc5a", "#3c96ff"]; // x red, y green, z (line of sight) blue
const LIKELY = 0.5; // minimum probability of a state that is shown
const SURE = 0.75; // minimum probability that the mouth is not closed to call it open: lips that just part are neither
const ROOM = 0.14; // distance of the box from the landmarks, as a share of their size
const SMALL = 45; // pixels of the frame; a smaller face shows no states, as its eyes are 8 px wide
const TEXT = [11, 13]; // text size of labels on phones and on large screens, pixels of the page

function range(first, last) {
  return Array.from({ length: last - first + 1 }, (_, place) => first + place);
}

export function colourOf(id) {
  return COLOURS[id % COLOURS.length];
}

export function stateWords(states) {
  if (!states) return [];
  const [left, right, closed, wide] = states;
  const words = [];
  if (left >= LIKELY && right >= LIKELY) words.push("eyes closed");
  else if (left >= LIKELY) words.push("left eye closed");
  else if (right >= LIKELY) words.push("right eye closed");
  if (wide >= LIKELY) words.push("mouth wide open");
  else if (closed < 1 - SURE) words.push("mouth open");
  return words;
}

export class PictureView {
  constructor(stage, picture, overlay) {
    this.stage = stage;
    this.picture = picture;
    this.overlay = overlay;
    this.layers = new Set();
    this.about = null;
    this.sides = new Map(); // sides of the last labels by track id
    new ResizeObserver(() => this.draw()).observe(stage);
  }

  // Shows one picture: an ImageBitmap, and the JSON about its frame.
  show(bitmap, about) {
    const before = this.about;
    this.about = about;
    if (!before || before.width !== about.width || before.height !== about.height) {
      this.stage.style.aspectRatio = `${about.width} / ${about.height}`;
      this.stage.style.maxWidth = `calc(76vh * ${about.width / about.height})`;
    }
    if (this.picture.width !== bitmap.width || this.picture.height !== bitmap.height) {
      this.picture.width = bitmap.width;
      this.picture.height = bitmap.height;
    }
    this.picture.getContext("2d").drawImage(bitmap, 0, 0);
    this.draw();
  }

  // Draws the faces at the resolution of the screen, whatever the size of the picture.
  draw() {
    if (!this.about) return;
    const sharp = window.devicePixelRatio || 1;
    const width = Math.round(this.stage.clientWidth * sharp), height = Math.round(this.stage.clientHeight * sharp);
    if (this.overlay.width !== width || this.overlay.height !== height) {
      this.overlay.width = width;
      this.overlay.height = height;
    }
    const context = this.overlay.getContext("2d");
    context.clearRect(0, 0, width, height);
    const scale = width / this.about.width;
    const seen = this.about.faces.filter((face) => face.landmarks).map((face) => onScreen(face, scale));
    for (const face of seen) drawFace(context, face, this.layers, sharp);
    const text = Math.min(Math.max(this.stage.clientWidth / 60, TEXT[0]), TEXT[1]);
    const labels = seen.sort((a, b) => b.size - a.size).map((face) => labelOf(face, this.sides.get(face.id)));
    const drawn = this.layers.has("label") ? drawLabels(context, labels, text * sharp) : [];
    this.sides = new Map(drawn.map(({ label, side }) => [label.id, side]));
  }
}

// A face with its points, its size and its box [x0, y0, x1, y1] in pixels of the overlay.
function onScreen(face, scale) {
  const points = [];
  for (let i = 0; i < face.landmarks.length; i += 2) {
    points.push([(face.landmarks[i] + 0.5) * scale, (face.landmarks[i + 1] + 0.5) * scale]); // (0, 0): a pixel's centre
  }
  const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
  const left = Math.min(...xs), top = Math.min(...ys), right = Math.max(...xs), bottom = Math.max(...ys);
  const size = Math.max(1, Math.sqrt((right - left) * (bottom - top))), room = ROOM * size;
  return { ...face, points, size, small: size < SMALL * scale, frame: [left - room, top - room, right + room, bottom + room] };
}

function labelOf(face, side) {
  const id = `#${face.id}`, first = face.score === null ? id : `${id}  ${Math.round(100 * face.score)} %`;
  const all = [first, ...(face.small ? [] : stateWords(face.states))].join("  ·  ");
  return { id: face.id, face: face.frame, texts: [all, first, id], colour: colourOf(face.id), side };
}

function drawFace(context, face, layers, sharp) {
  const { points, size } = face;
  const colour = colourOf(face.id), thick = Math.max(1.2 * sharp, size / 110);
  context.lineJoin = context.lineCap = "round";
  if (layers.has("box")) outlined(context, colour, thick, () => brackets(context, face.frame));
  if (layers.has("contours")) {
    outlined(context, colour, thick, () => CONTOURS.forEach(([places, closes]) => curve(context, places.map((i) => points[i]), closes)));
  }
  if (layers.has("points")) {
    context.fillStyle = layers.has("contours") ? "#fff" : colour;
    for (const [x, y] of points) {
      context.beginPath();
      context.arc(x, y, Math.max(sharp, size / 90), 0, 2 * Math.PI);
      context.fill();
    }
  }
  if (layers.has("pose") && face.pose) axes(context, points[30], face.pose, 0.45 * size, thick);
}

function outlined(context, colour, thick, path) {
  context.beginPath();
  path();
  context.strokeStyle = "rgba(0, 0, 0, .45)";
  context.lineWidth = thick * 2;
  context.stroke();
  context.strokeStyle = colour;
  context.lineWidth = thick;
  context.stroke();
}

function brackets(context, [left, top, right, bottom]) {
  const arm = 0.18 * Math.min(right - left, bottom - top);
  for (const [x, sx] of [[left, 1], [right, -1]]) {
    for (const [y, sy] of [[top, 1], [bottom, -1]]) {
      context.moveTo(x, y + sy * arm);
      context.lineTo(x, y);
      context.lineTo(x + sx * arm, y);
    }
  }
}

// A smooth line through points: Catmull and Rom 1974, tension 0.5, each piece as a Bezier curve.
function curve(context, points, closes) {
  const count = points.length;
  const at = (i) => (closes ? points[(i + count) % count] : points[Math.min(Math.max(i, 0), count - 1)]);
  context.moveTo(...points[0]);
  for (let i = 0; i < (closes ? count : count - 1); i++) {
    const [a, b, c, d] = [at(i - 1), at(i), at(i + 1), at(i + 2)];
    context.bezierCurveTo(
      b[0] + (c[0] - a[0]) / 6, b[1] + (c[1] - a[1]) / 6, c[0] - (d[0] - b[0]) / 6, c[1] - (d[1] - b[1]) / 6, c[0], c[1],
    );
  }
}

// The head's axes from the tip of the nose; the rotation is Rz(roll) Ry(yaw) Rx(pitch), as in nodes/_draw.py.
function axes(context, [x, y], pose, length, thick) {
  const [p, w, r] = pose.map((degrees) => (degrees * Math.PI) / 180);
  const [cp, sp, cy, sy, cr, sr] = [Math.cos(p), Math.sin(p), Math.cos(w), Math.sin(w), Math.cos(r), Math.sin(r)];
  const ends = [
    { colour: AXES[0], x: (cr * cy) / 2, y: (sr * cy) / 2, z: -sy / 2 },
    { colour: AXES[1], x: (cr * sy * sp - sr * cp) / 2, y: (sr * sy * sp + cr * cp) / 2, z: (cy * sp) / 2 },
    { colour: AXES[2], x: -(cr * sy * cp + sr * sp), y: -(sr * sy * cp - cr * sp), z: -cy * cp },
  ];
  for (const end of ends.sort((a, b) => b.z - a.z)) {
    outlined(context, end.colour, thick, () => {
      context.moveTo(x, y);
      context.lineTo(x + length * end.x, y + length * end.y);
    });
  }
}
