// Labels next to faces, placed so that they cover neither each other nor another face (as nodes/_labels.py does).

// In text sizes: height of a label, distance from its face, space left of its text, space on both sides together.
const HEIGHT = 1.6, GAP = 1 / 3, BEFORE = 0.6, AROUND = 1;
const FOREHEAD = 1 / 8; // share of the height of a face's box above its brows

// Places labels [{face: [x0, y0, x1, y1], texts, side}]: [{label, text, side, place: [x0, y0, x1, y1]}]. First, each gets
// room for its last and shortest text; then, in order, for its first text that fits. A label stays on its previous
// `side`, a number from `places`, as long as there is room.
export function arrange(labels, size, width, height, measure) {
  const placed = new Map();
  for (const texts of [(label) => label.texts.slice(-1), (label) => label.texts]) {
    for (const label of labels) {
      const others = labels.filter((other) => other !== label);
      const taken = others.flatMap((other) => [other.face, ...(placed.has(other) ? [placed.get(other).place] : [])]);
      const found = texts(label).flatMap((text) => {
        const extent = [measure(text) + AROUND * size, HEIGHT * size];
        const there = places(label.face, extent, GAP * size, width, height);
        const again = there.filter(([side]) => side === label.side);
        return [...again, ...there].map(([side, place]) => ({ label, text, side, place }));
      }).find(({ place }) => !taken.some((other) => overlap(place, other)));
      if (found) placed.set(label, found);
    }
  }
  return [...placed.values()];
}

// The places for a label in the picture: above, below and next to its face, and last, if it fits on the forehead, on the
// face itself; none if it is larger than the picture.
function places([x0, y0, x1, y1], [wide, high], gap, width, height) {
  if (wide > width || high > height) return [];
  const left = (x) => Math.max(0, Math.min(x, width - wide)), top = (y) => Math.max(0, Math.min(y, height - high));
  const above = y0 - gap - high, below = y1 + gap;
  const found = [[x0, above], [x1 - wide, above], [x0, below], [x1 - wide, below]]
    .map(([x, y], side) => [side, left(x), y]).filter(([, , y]) => y >= 0 && y + high <= height);
  const beside = [x1 + gap, x0 - gap - wide].map((x, other) => [4 + other, x, top(y0)]);
  found.push(...beside.filter(([, x]) => x >= 0 && x + wide <= width));
  if (high <= FOREHEAD * (y1 - y0)) found.push([6, left(x0), top(above)]);
  return found.map(([side, x, y]) => [side, [x, y, x + wide, y + high]]);
}

function overlap(a, b) {
  return a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
}

// Draws labels, each with a `colour`, with text of `size` pixels; returns their places as `arrange` does.
export function drawLabels(context, labels, size) {
  context.font = `600 ${size}px system-ui, sans-serif`;
  const { width, height } = context.canvas;
  const arranged = arrange(labels, size, width, height, (words) => context.measureText(words).width);
  for (const { label, text, place } of arranged) {
    const [x0, y0, x1, y1] = place;
    context.fillStyle = "rgba(10, 14, 16, .68)";
    context.fillRect(x0, y0, x1 - x0, y1 - y0);
    context.fillStyle = label.colour;
    context.fillRect(x0, y0, size / 4, y1 - y0);
    context.fillStyle = "#fff";
    context.fillText(text, x0 + BEFORE * size, y0 + 1.15 * size);
  }
  return arranged;
}
