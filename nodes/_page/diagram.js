// The graph as a picture: nodes in layers from the sources to the sinks (Sugiyama, Tagawa and Toda 1981).

const NODE = { width: 136, height: 46, gap: 18 };
const LANE = 42; // width for an edge that passes a layer, and for its text between two nodes
const LAYER = 92; // distance between layers
const DOCK = 22; // distance between the ends of two edges at a node
const LEAST_SCALE = 0.6; // a large graph is scaled down to this at most, so that its text can be read, and then scrolls
const SVG = "http://www.w3.org/2000/svg";

export const nodeOf = (port) => port.replace(/\.[^.]*$/, "");

// Places nodes and edges: {nodes: {name: {x, y}}, edges: [{from, to, points}], width, height}, in pixels.
export function layout(names, edges) {
  const layers = inLayers(names, edges);
  const lanes = edges.map(({ from, to }) => [from, ...passing(layers, from, to), to]);
  const links = lanes.flatMap((lane) => lane.slice(1).map((next, i) => [lane[i], next]));
  const rows = ordered([...layers.values()].reduce((a, b) => Math.max(a, b), 0) + 1, layers, links);
  const x = spread(rows, links);
  const places = [...layers.keys()].map((key) => x.get(key));
  const left = Math.min(...places) - NODE.width / 2 - 8;
  const place = (key) => ({ x: x.get(key) - left, y: layers.get(key) * LAYER + NODE.height / 2 + 4 });
  const placed = lanes.map((lane) => ({ from: lane[0], to: lane.at(-1), points: lane.map(place) }));
  return {
    nodes: Object.fromEntries(names.map((name) => [name, place(name)])),
    edges: placed.map((edge) => docked(edge, placed)),
    width: Math.max(...places) - left + NODE.width / 2 + 8,
    height: (rows.length - 1) * LAYER + NODE.height + 8,
  };
}

// Spreads the ends of the edges at a node side by side, in the order of their other ends.
function docked(edge, all) {
  const points = edge.points.map((point) => ({ ...point }));
  for (const [node, end, next] of [["from", 0, 1], ["to", -1, -2]]) {
    const beside = all.filter((other) => other[node] === edge[node]);
    beside.sort((a, b) => a.points.at(next).x - b.points.at(next).x);
    const step = Math.min(DOCK, (NODE.width - 2 * DOCK) / beside.length);
    points.at(end).x += step * (beside.indexOf(edge) - (beside.length - 1) / 2);
    points.at(end).y += NODE.height / (end ? -2 : 2);
  }
  return { ...edge, points };
}

// Layer of each node: one more than the deepest node before it.
function inLayers(names, edges) {
  const layers = new Map(names.map((name) => [name, 0]));
  for (let round = 0; round < names.length; round++) {
    for (const { from, to } of edges) layers.set(to, Math.max(layers.get(to), layers.get(from) + 1));
  }
  return layers;
}

// The points of a long edge in the layers that it passes; they are ordered like nodes.
function passing(layers, from, to) {
  const keys = [];
  for (let layer = layers.get(from) + 1; layer < layers.get(to); layer++) {
    const key = `${from} > ${to} @ ${layer}`;
    layers.set(key, layer);
    keys.push(key);
  }
  return keys;
}

function ordered(count, layers, links) {
  const rows = Array.from({ length: count }, (_, layer) => [...layers.keys()].filter((key) => layers.get(key) === layer));
  for (let sweep = 0; sweep < 8; sweep++) {
    const place = new Map(rows.flatMap((row) => row.map((key, i) => [key, i - (row.length - 1) / 2])));
    const down = sweep % 2 === 0;
    for (const row of down ? rows : [...rows].reverse()) {
      const wish = new Map(row.map((key) => [key, mean(links, key, place, down) ?? place.get(key)]));
      row.sort((a, b) => wish.get(a) - wish.get(b));
      row.forEach((key, i) => place.set(key, i - (row.length - 1) / 2));
    }
  }
  return rows;
}

// Mean place of the neighbours above (or below); points of the same edge weigh more, so that it is straight.
function mean(links, key, place, above) {
  let sum = 0, weight = 0;
  for (const [from, to] of links) {
    const other = above ? (to === key ? from : null) : from === key ? to : null;
    if (other === null) continue;
    const heavy = isLane(key) && isLane(other) ? 4 : 1;
    sum += heavy * place.get(other);
    weight += heavy;
  }
  return weight ? sum / weight : null;
}

const isLane = (key) => key.includes(" > ");
const room = (key) => (isLane(key) ? LANE : NODE.width + NODE.gap);

// Horizontal places: near the neighbours, without overlap.
function spread(rows, links) {
  const x = new Map();
  for (const row of rows) {
    let at = 0;
    for (const key of row) {
      x.set(key, at + room(key) / 2);
      at += room(key);
    }
    for (const key of row) x.set(key, x.get(key) - at / 2);
  }
  for (let sweep = 0; sweep < 24; sweep++) {
    const down = sweep % 2 === 0;
    for (const row of down ? rows : [...rows].reverse()) {
      const near = apart(row, row.map((key) => mean(links, key, x, down) ?? x.get(key)));
      row.forEach((key, i) => x.set(key, (x.get(key) + near[i]) / 2));
    }
  }
  return x;
}

// The places nearest to the desired ones (least squares) that keep the order and do not overlap: nodes that would
// overlap move as one block (pool adjacent violators, Ayer et al. 1955).
function apart(row, wish) {
  let end = 0;
  const offsets = row.map((key) => (end += room(key)) - room(key) / 2);
  const blocks = [];
  for (let i = 0; i < row.length; i++) {
    let block = { start: wish[i] - offsets[i], count: 1 };
    while (blocks.length && blocks.at(-1).start > block.start) {
      const { start, count } = blocks.pop();
      const both = count + block.count;
      block = { start: (count * start + block.count * block.start) / both, count: both };
    }
    blocks.push(block);
  }
  return blocks.flatMap(({ start, count }) => Array(count).fill(start)).map((start, i) => start + offsets[i]);
}

function element(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export class Diagram {
  constructor(place) {
    this.place = place;
    this.drawn = "";
  }

  // Draws nodes {name: {state, fps, process, colour}} and edges [{from, to, rate, dropped, losing, title}].
  update(nodes, edges) {
    const shape = JSON.stringify([Object.keys(nodes), edges.map((edge) => [edge.from, edge.to])]);
    if (shape !== this.drawn) {
      this.drawn = shape;
      this.build(Object.keys(nodes), edges);
    }
    for (const [name, about] of Object.entries(nodes)) {
      const { group, line } = this.nodes.get(name);
      group.setAttribute("class", `node ${about.colour} ${about.outside ? "outside" : ""}`);
      line.textContent = about.line;
    }
    edges.forEach((edge, i) => {
      const { group, text, title } = this.edges[i];
      group.setAttribute("class", `edge ${edge.losing ? "losing" : ""}`);
      text.textContent = edge.text;
      title.textContent = edge.title;
    });
  }

  build(names, edges) {
    const found = layout(names, edges);
    const svg = element("svg", { viewBox: `0 0 ${found.width} ${found.height}`, width: found.width, role: "img", "aria-label": "The graph" });
    svg.style.minWidth = `${LEAST_SCALE * found.width}px`;
    const arrow = element("path", { d: "M0 0 8 4 0 8z", fill: "context-stroke" });
    const marker = element("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 8, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" }, arrow);
    svg.append(element("defs", {}, marker));
    this.edges = found.edges.map(({ points }) => {
      const text = element("text", { "text-anchor": "middle" });
      const title = element("title");
      const middle = wire(points);
      text.setAttribute("x", middle.x);
      text.setAttribute("y", middle.y + 4);
      const group = element("g", { class: "edge" }, title, element("path", { d: middle.path, "marker-end": "url(#arrow)" }), text);
      svg.append(group);
      return { group, text, title };
    });
    this.nodes = new Map(names.map((name) => {
      const { x, y } = found.nodes[name];
      const line = element("text", { class: "small", x: x - NODE.width / 2 + 24, y: y + 15 });
      const box = { x: x - NODE.width / 2, y: y - NODE.height / 2, width: NODE.width, height: NODE.height, rx: 9 };
      const title = element("text", { class: "title", x: x - NODE.width / 2 + 24, y: y - 3 }, shortened(name));
      const bead = element("circle", { class: "bead", cx: x - NODE.width / 2 + 13, cy: y - 7, r: 4.5 });
      const group = element("g", { class: "node" }, element("title", {}, name), element("rect", box), bead, title, line);
      svg.append(group);
      return [name, { group, line }];
    }));
    this.place.replaceChildren(svg);
  }
}

const shortened = (name) => (name.length > 15 ? `${name.slice(0, 14)}…` : name);

// The curve of an edge through its points, and the place of its text: at the last point before its end, or halfway.
function wire(points) {
  let path = `M${points[0].x} ${points[0].y}`;
  for (let i = 1; i < points.length; i++) {
    const [a, b] = [points[i - 1], points[i]], half = (b.y - a.y) / 2;
    path += `C${a.x} ${a.y + half} ${b.x} ${b.y - half} ${b.x} ${b.y}`;
  }
  const [a, b] = points.slice(-2);
  return points.length > 2 ? { path, x: a.x, y: a.y } : { path, x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 };
}
