// The page: one WebSocket to the server (see nodes/_web_server.py for its messages).

import { Diagram, nodeOf } from "./diagram.js";
import { $, make } from "./elements.js";
import { PictureView, colourOf, stateWords } from "./picture.js";
import { Settings } from "./settings.js";

const view = new PictureView($("stage"), $("picture"), $("overlay"));
const diagram = new Diagram($("diagram"));
const settings = new Settings($("settings"), command);
const RETRY_MS = [250, 500, 1000, 2000, 4000];
const WIDE = [0.4, 0.4, 0.8]; // openness of wide open eyes and mouth
const PAGE_TYPE = "nodes.web:WebView"; // cannot be restarted from the page
const STALE_MS = 2000; // after this time without a new picture, the last one is dimmed
const SILENT_MS = 15000; // after this time without a message, the connection is dead (the server sends one per second)
const UNKNOWN = "no connection"; // if the reason is not known

let socket = null;
let tries = 0;
let reason = UNKNOWN; // why the last connection ended
let graph = null; // nodes, settings and edges
let stats = null;
const ready = []; // decoded pictures; the newest one will be drawn
let drawnAt = 0;
let heardAt = 0;
let requestId = 0;
const pending = new Map(); // id: callback for the answer

// ---------------------------------------------------------------- connection

function connect() {
  const address = new URL("live", location.href); // a proxy may serve the page under a path
  address.protocol = address.protocol.replace("http", "ws");
  socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  heardAt = performance.now();
  socket.onopen = () => {
    tries = 0;
    reason = UNKNOWN;
    heardAt = performance.now();
    document.body.classList.remove("lost");
    setState("connected", "good");
  };
  socket.onmessage = ({ data }) => {
    heardAt = performance.now();
    if (typeof data === "string") handleMessage(JSON.parse(data));
    else receivePicture(data);
  };
  socket.onclose = disconnected;
}

// `closing` is the close event; there is none if the page gave up the connection.
async function disconnected(closing) {
  for (const resolve of pending.values()) resolve({ error: "the connection was lost" });
  pending.clear();
  for (const { bitmap } of ready.splice(0)) bitmap.close();
  $("stage").classList.add("stale");
  document.body.classList.add("lost");
  $("view").textContent = "";
  reason = closing?.reason || reason;
  setState(`${reason}, trying again`, "bad");
  const why = tries++ && closing && (await findReason().catch(() => "")); // the first time, it may just have been lost
  if (why) setState(why, "bad");
  setTimeout(connect, RETRY_MS[Math.min(tries - 1, RETRY_MS.length - 1)] * (1 + Math.random() / 2));
}

// Asks by plain HTTP why there is no connection, which a WebSocket does not say; returns "" if that is not known.
async function findReason() {
  const reply = await fetch("live", { signal: AbortSignal.timeout(SILENT_MS) });
  if (reply.status === 401) location.reload(); // shows the login
  if (reply.status === 400) return `${UNKNOWN}: a proxy in front must forward WebSockets and the Host header`;
  return reply.status === 503 ? `trying again: ${(await reply.text()).trim()}` : "";
}

// Gives up a connection that is dead or was never made: the network has changed, or this machine has slept.
setInterval(() => {
  if (socket.readyState > WebSocket.OPEN || performance.now() - heardAt < SILENT_MS) return;
  socket.onclose = socket.onmessage = null;
  socket.close();
  disconnected();
}, 1000);

function send(content) {
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(content));
}

function request(content) {
  return new Promise((resolve) => {
    if (socket.readyState !== WebSocket.OPEN) return resolve({ error: "there is no connection" });
    pending.set(++requestId, resolve);
    send({ ...content, id: requestId });
  });
}

async function command(content) {
  const answer = await request(content);
  if (answer.error) notice(answer.error);
  return answer;
}

function handleMessage(message) {
  if (message.k === "graph") showGraph(message);
  else if (message.k === "stats") showStats(message);
  else if (message.k === "view") showView(message);
  else if (message.k === "answer") {
    pending.get(message.id)?.(message);
    pending.delete(message.id);
  }
}

// ---------------------------------------------------------------- picture

async function receivePicture(data) {
  const from = socket;
  const length = new DataView(data).getUint32(0, true);
  const about = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const jpeg = new Blob([new Uint8Array(data, 4 + length)], { type: "image/jpeg" });
  const bitmap = await createImageBitmap(jpeg).catch((error) => notice(`this browser cannot show a picture: ${error.message}`));
  if (from !== socket || from.readyState !== WebSocket.OPEN) return bitmap?.close();
  const next = { bitmap, about, at: performance.now() };
  if (!bitmap) return done(next, false); // to get the next one
  if (!ready.length) requestAnimationFrame(paint);
  ready.push(next);
}

// A hidden tab gets no animation frames, so it reports nothing as drawn and the server sends no more pictures.
function paint() {
  const pictures = ready.splice(0).sort((a, b) => a.about.seq - b.about.seq); // some are decoded out of order
  if (!pictures.length) return;
  const shown = pictures.at(-1);
  view.show(shown.bitmap, shown.about);
  showFaces(shown.about.faces);
  $("waiting").hidden = true;
  $("stage").classList.remove("stale");
  drawnAt = performance.now();
  for (const picture of pictures) done(picture, picture === shown && drawnAt - shown.at < 1000);
}

function done({ bitmap, about }, seen) {
  bitmap?.close();
  send({ k: "drawn", seq: about.seq, seen });
}

setInterval(() => {
  const paused = graph?.state === "PAUSED";
  if (drawnAt && !paused && !document.hidden && performance.now() - drawnAt > STALE_MS) $("stage").classList.add("stale");
}, 500);

// Returns the local storage of the page; null if the user does not allow it.
function allowedStorage() {
  try {
    return window.localStorage;
  } catch {
    return null;
  }
}

const storage = allowedStorage();

for (const box of $("layers").querySelectorAll("input")) {
  const kept = storage?.getItem(`layer ${box.value}`);
  if (kept) box.checked = kept === "true";
  const apply = () => { view.layers[box.checked ? "add" : "delete"](box.value); };
  box.onchange = () => {
    apply();
    storage?.setItem(`layer ${box.value}`, box.checked);
    view.draw();
  };
  apply();
}

function showView({ fps, age_ms }) {
  const age = age_ms === null ? "" : ` · ${Math.round(age_ms)} ms after capture`;
  $("view").textContent = `${fps.toFixed(0)} fps here${age}`;
}

// ---------------------------------------------------------------- faces

function showFaces(faces) {
  $("face-count").textContent = faces.length || "";
  const cards = new Map([...$("faces").querySelectorAll(".face")].map((card) => [card.dataset.id, card]));
  if (!faces.length) {
    if (!$("faces").querySelector(".none")) $("faces").replaceChildren(make("p", { className: "none", textContent: "no face in view" }));
    return;
  }
  $("faces").querySelector(".none")?.remove();
  for (const face of faces) {
    const card = cards.get(String(face.id)) ?? faceCard(face.id);
    cards.delete(String(face.id));
    fillFace(card, face);
  }
  for (const card of cards.values()) card.remove();
}

function faceCard(id) {
  const card = make("div", { className: "face" });
  card.dataset.id = id;
  card.style.setProperty("--track", colourOf(id));
  const meters = make("div", { className: "meters" });
  for (const name of ["left eye", "right eye", "mouth"]) {
    const meter = make("meter", { min: 0, max: 1 });
    meter.setAttribute("aria-label", `${name} open`);
    meters.append(make("span", { textContent: name }), meter);
  }
  card.append(make("div", { className: "who" }), make("div", { className: "pose" }), meters);
  $("faces").append(card);
  return card;
}

function fillFace(card, face) {
  const score = face.score === null ? "" : `${Math.round(100 * face.score)} %`;
  const blinks = face.blinks ? [face.blinks === 1 ? "1 blink" : `${face.blinks} blinks`] : [];
  const words = [score, ...stateWords(face.states), ...blinks].join(" · ");
  card.querySelector(".who").replaceChildren(make("b", { textContent: `#${face.id}` }), ` ${words}`);
  const [pitch, yaw, roll] = (face.pose ?? []).map((degrees) => Math.round(degrees));
  card.querySelector(".pose").textContent = face.pose ? `pitch ${pitch}°  yaw ${yaw}°  roll ${roll}°` : "pose unknown";
  const open = face.openness?.map((value, i) => value / WIDE[i]) ?? face.states?.slice(0, 3).map((closed) => 1 - closed);
  [...card.querySelectorAll("meter")].forEach((meter, i) => { meter.value = open ? open[i] : 0; });
}

// ---------------------------------------------------------------- graph and numbers

const GOOD = ["PLAYING", "PROCESSING", "WAITING", "DONE"];

function colourOfState(state) {
  if (state === "FAILED") return "bad";
  return GOOD.includes(state) ? "good" : "warn";
}

const ms = (value) => (value < 9.995 ? value.toFixed(2) : value < 99.95 ? value.toFixed(1) : value.toFixed(0));
const times = (of) => (of ? [of.p50, of.p95, of.p99] : []);

function showGraph(message) {
  graph = message;
  $("name").textContent = message.name;
  document.title = message.name;
  const paused = message.state === "PAUSED";
  setState(message.state.toLowerCase(), message.state === "PLAYING" ? "good" : "warn");
  $("pause").hidden = !message.control || !(paused || message.state === "PLAYING");
  $("pause").textContent = paused ? "Resume" : "Pause";
  $("pause").onclick = () => command({ k: paused ? "resume" : "pause" });
  settings.show(message);
  if (stats) showDiagram();
}

function showStats(message) {
  if (message.error) {
    setState(message.error, "bad");
    return;
  }
  stats = message;
  if (!graph) return;
  setState(graph.state.toLowerCase(), graph.state === "PLAYING" ? "good" : "warn");
  const ends = Object.entries(message.paths).filter(([, age]) => age).map(([name, age]) => `${name} ${ms(age.p50)} ms`);
  $("path").textContent = ends.length ? `capture to ${ends.join(", ")}` : "";
  showDiagram();
  showTable();
}

function showDiagram() {
  const nodes = {};
  for (const [name, now] of Object.entries(stats.nodes)) {
    const work = now.process_ms ? ` · ${ms(now.process_ms.p50)} ms` : "";
    nodes[name] = { colour: colourOfState(now.state), line: `${now.fps.toFixed(1)} fps${work}` };
  }
  const joined = new Map(); // several ports between the same nodes are one line
  for (const [name, edge] of Object.entries(stats.edges)) {
    const [from, to] = [nodeOf(edge.from), edge.to.includes(".") ? nodeOf(edge.to) : edge.to];
    for (const end of [from, to]) nodes[end] ??= { colour: "", line: "another process", outside: true };
    const line = joined.get(`${from} ${to}`) ?? { from, to, rate: 0, dropped: 0, losing: false, titles: [] };
    line.rate = Math.max(line.rate, edge.rate ?? 0);
    line.dropped += edge.dropped;
    line.losing ||= edge.dropped_per_s > 0;
    line.titles.push(`${name}: ${edge.policy ?? "its own policy"}, ${edge.queued ?? "?"} of ${edge.queue ?? "?"} waiting, ${edge.dropped ?? "?"} dropped`);
    joined.set(`${from} ${to}`, line);
  }
  diagram.update(nodes, [...joined.values()].map((line) => ({
    ...line,
    text: `${line.rate.toFixed(0)}/s${line.dropped ? ` −${line.dropped}` : ""}`,
    title: line.titles.join("\n"),
  })));
}

function showTable() {
  const rows = new Map([...$("nodes").rows].map((row) => [row.dataset.node, row]));
  for (const [name, now] of Object.entries(stats.nodes)) {
    const row = rows.get(name) ?? nodeRow(name);
    rows.delete(name);
    const lost = now.dropped + now.unmatched;
    const cells = [
      make("span", { className: `dot ${colourOfState(now.state)}`, textContent: now.state.toLowerCase() }),
      now.fps.toFixed(1), now.queue ?? "–", percentiles(now.wait_ms), percentiles(now.process_ms), `${now.busy_percent.toFixed(0)} %`,
      make("span", { className: now.dropped_per_s ? "losing" : "", textContent: lost || "–" }),
      `${now.cpu_percent.toFixed(0)} %`, `${now.memory_mb.toFixed(0)} MB`,
    ];
    cells.forEach((cell, i) => row.cells[i + 1].replaceChildren(cell));
  }
  for (const row of rows.values()) row.remove();
}

function nodeRow(name) {
  const row = $("nodes").insertRow();
  row.dataset.node = name;
  row.append(make("th", { scope: "row", textContent: name, title: name }));
  for (let i = 0; i < 10; i++) row.insertCell();
  if (graph.control && graph.nodes[name]?.type !== PAGE_TYPE) {
    const button = make("button", { textContent: "Restart", title: `Restart ${name}`, ariaLabel: `Restart ${name}` });
    button.onclick = async () => {
      button.disabled = true;
      await command({ k: "restart", node: name });
      button.disabled = false;
    };
    row.cells[10].append(button);
  }
  return row;
}

function percentiles(of) {
  if (!of) return "–";
  const [middle, ...rest] = times(of).map(ms);
  const cell = make("span", { textContent: middle });
  cell.append(make("span", { className: "low", textContent: ` / ${rest.join(" / ")}` }));
  return cell;
}

// ---------------------------------------------------------------- small things

function setState(text, colour) {
  if ($("state").textContent !== text) $("state").textContent = text; // a screen reader announces each change
  $("state").className = `state ${colour}`;
}

let noticeTimer = 0;

function notice(text) {
  $("notice").textContent = text;
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => { $("notice").textContent = ""; }, 8000);
}

connect();
