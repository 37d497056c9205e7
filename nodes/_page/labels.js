// Labels beside faces, placed so that they cover neither each other nor another face (nodes/_labels.py does the same).

// In sizes of the text: of a label, between it and its face, left of its text, and on both sides.
const HEIGHT = 1.6, GAP = 1 / 3, BEFORE = 0.6, AROUND = 1;

// Returns where labels [{face: [x0, y0, x1, y1], texts}] go: [{label, text, place: [x0, y0, x1, y1]}]. The first ones have
// the first choice; a label without room takes a shorter one of its texts, and is at last left out.
export function arrange(labels, size, width, height, measure) {
  const placed = [];
  for (const label of labels) {
    const taken = [...placed.map(({ place }) => place), ...labels.filter((other) => other !== label).map(({ face }) => face)];
    const found = label.texts.flatMap((text) => {
      const extent = [measure(text) + AROUND * size, HEIGHT * size];
      return places(label.face, extent, GAP * size, width, height).map((place) => ({ label, text, place }));
    }).find(({ place }) => !taken.some((other) => overlap(place, other)));
    if (found) placed.push(found);
  }
  return placed;
}

// Where a label may lie in the picture: above and below its face, at last on its upper rim; nowhere if it is larger.
function places([x0, y0, x1, y1], [wide, high], gap, width, height) {
  if (wide > width || high > height) return [];
  const at = (x, y) => {
    const left = Math.max(0, Math.min(x, width - wide)), top = Math.max(0, Math.min(y, height - high));
    return [left, top, left + wide, top + high];
  };
  const above = y0 - gap - high, below = y1 + gap;
  const beside = [[x0, above], [x1 - wide, above], [x0, below], [x1 - wide, below]];
  return [...beside.filter(([, y]) => y >= 0 && y + high <= height), [x0, above]].map(([x, y]) => at(x, y));
}

function overlap(a, b) {
  return a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
}

// Writes labels, each with a `colour`, with text of `size` pixels.
export function drawLabels(context, labels, size) {
  context.font = `600 ${size}px system-ui, sans-serif`;
  const { width, height } = context.canvas;
  for (const { label, text, place } of arrange(labels, size, width, height, (words) => context.measureText(words).width)) {
    const [x0, y0, x1, y1] = place;
    context.fillStyle = "rgba(10, 14, 16, .68)";
    context.fillRect(x0, y0, x1 - x0, y1 - y0);
    context.fillStyle = label.colour;
    context.fillRect(x0, y0, size / 4, y1 - y0);
    context.fillStyle = "#fff";
    context.fillText(text, x0 + BEFORE * size, y0 + 1.15 * size);
  }
}
