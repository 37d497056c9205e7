// The graph as a picture: nodes in layers from the sources to the sinks (Sugiyama, Tagawa and Toda 1981).

const NODE = { width: 136, height: 46, gap: 18 };
const LANE = 26; // room for an edge that passes a layer by
const LAYER = 92; // from one layer to the next
const LEAST_SCALE = 0.6; // of a graph that has no room: its text can still be read, and the rest is scrolled to
const SVG = "http://www.w3.org/2000/svg";

export const nodeOf = (port) => port.replace(/\.[^.]*$/, "");

// Places nodes and edges: {nodes: {name: {x, y}}, edges: [{name, points}], width, height}, in pixels.
export function layout(names, edges) {
  const layers = inLayers(names, edges);
  const lanes = edges.map(({ from, to }) => [from, ...passing(layers, from, to), to]);
  const links = lanes.flatMap((lane) => lane.slice(1).map((next, i) => [lane[i], next]));
  const rows = ordered([...layers.values()].reduce((a, b) => Math.max(a, b), 0) + 1, layers, links);
  const x = spread(rows, links);
  const places = [...layers.keys()].map((key) => x.get(key));
  const left = Math.min(...places) - NODE.width / 2 - 8;
  const place = (key) => ({ x: x.get(key) - left, y: layers.get(key) * LAYER + NODE.height / 2 + 4 });
  return {
    nodes: Object.fromEntries(names.map((name) => [name, place(name)])),
    edges: lanes.map((lane, i) => ({ name: edges[i].name, points: lane.map(place) })),
    width: Math.max(...places) - left + NODE.width / 2 + 8,
    height: (rows.length - 1) * LAYER + NODE.height + 8,
  };
}

// Layer of each node: one more than the deepest of those before it.
function inLayers(names, edges) {
  const layers = new Map(names.map((name) => [name, 0]));
  for (let round = 0; round < names.length; round++) {
    for (const { from, to } of edges) layers.set(to, Math.max(layers.get(to), layers.get(from) + 1));
  }
  return layers;
}

// The points of a long edge in the layers that it passes; they take part in the ordering like nodes.
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

// Mean place of the neighbours above (or below); lanes of one edge weigh more, so that it runs straight.
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
      const wish = row.map((key) => mean(links, key, x, down) ?? x.get(key));
      for (let i = 1; i < row.length; i++) wish[i] = Math.max(wish[i], wish[i - 1] + (room(row[i - 1]) + room(row[i])) / 2);
      for (let i = row.length - 2; i >= 0; i--) {
        const most = wish[i + 1] - (room(row[i]) + room(row[i + 1])) / 2;
        const own = mean(links, row[i], x, down) ?? x.get(row[i]);
        wish[i] = Math.min(wish[i], Math.max(most, own), most);
      }
      row.forEach((key, i) => x.set(key, (x.get(key) + wish[i]) / 2));
    }
  }
  for (const row of rows) { // halving steps may leave overlaps
    for (let i = 1; i < row.length; i++) {
      x.set(row[i], Math.max(x.get(row[i]), x.get(row[i - 1]) + (room(row[i - 1]) + room(row[i])) / 2));
    }
  }
  return x;
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
    const found = layout(names, edges.map((edge, name) => ({ name, from: edge.from, to: edge.to })));
    const svg = element("svg", { viewBox: `0 0 ${found.width} ${found.height}`, width: found.width, role: "img", "aria-label": "The graph" });
    svg.style.minWidth = `${LEAST_SCALE * found.width}px`;
    const arrow = element("path", { d: "M0 0 8 4 0 8z", fill: "context-stroke" });
    const marker = element("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 8, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" }, arrow);
    svg.append(element("defs", {}, marker));
    this.edges = found.edges.map(({ points }) => {
      const text = element("text", { "text-anchor": "middle" });
      const title = element("title");
      const ends = [...points];
      const middle = wire(ends);
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

// The curve of an edge through its places, and where its text goes.
function wire(points) {
  const first = { x: points[0].x, y: points[0].y + NODE.height / 2 };
  const last = { x: points.at(-1).x, y: points.at(-1).y - NODE.height / 2 };
  const shift = points.length > 2 ? Math.sign(points[1].x - points[0].x) * 30 : 0; // long edges leave at the side
  first.x += shift;
  last.x += points.length > 2 ? Math.sign(points.at(-2).x - points.at(-1).x) * 30 : 0;
  const way = [first, ...points.slice(1, -1), last];
  let path = `M${first.x} ${first.y}`;
  for (let i = 1; i < way.length; i++) {
    const [a, b] = [way[i - 1], way[i]], half = (b.y - a.y) / 2;
    path += `C${a.x} ${a.y + half} ${b.x} ${b.y - half} ${b.x} ${b.y}`;
  }
  const [a, b] = [way[0], way[1]];
  const inner = way.length > 2 ? way[Math.floor(way.length / 2)] : { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 };
  return { path, x: inner.x, y: inner.y };
}
