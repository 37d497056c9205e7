// Prints the landmarks of a running graph as JSON lines, and saves one of its pictures. In JavaScript, from what
// graph/README.md says of the wire protocol, with the bytes of all arrays inline.
//
//   npm install zeromq@6 @msgpack/msgpack@3
//   node client.mjs webcam --faces smooth.faces --count 100
//   node client.mjs webcam --frame camera.frame --picture picture.bmp

import { decode, encode } from "@msgpack/msgpack";
import { existsSync, writeFileSync } from "node:fs";
import { tmpdir, userInfo } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Dealer } from "zeromq";

const VERSION = 1;
const SILENCE_MS = 5000; // a sender says something at least every second
const DTYPES = { "|u1": Uint8Array, "<f4": Float32Array, "<f8": Float64Array, "<i8": BigInt64Array };

function folder(graph) {
  const { FACEGRAPH_RUN_DIR: own, XDG_RUNTIME_DIR: runtime } = process.env;
  const base = own ?? (runtime ? join(runtime, "facegraph") : join(tmpdir(), `facegraph-${userInfo().uid}`));
  return join(base, graph);
}

// Gives the messages of one output, the newest whenever the loop is ready for one: {header, arrays}.
async function* messages(graph, output) {
  const [node, port] = output.split(".");
  const address = join(folder(graph), node);
  if (!existsSync(address)) throw new Error(`no node ${node} of a graph ${graph} is running: ${address}`);
  const socket = new Dealer({ linger: 1000, receiveTimeout: SILENCE_MS });
  const say = (content) => socket.send(encode({ v: VERSION, ...content }));
  socket.connect(`ipc://${address}`);
  try {
    await say({ k: "hello", port, name: `client.mjs/${process.pid}.${port}`, policy: "latest", queue: 1, credits: 1, shm: false, marks: false });
    for await (const [first, ...parts] of socket) {
      const header = decode(first, { useBigInt64: true }); // times in ns do not fit into a double
      if (Number(header.v) !== VERSION) throw new Error(`${output} speaks version ${header.v} of the protocol`);
      if (header.k === "refused") throw new Error(`${output} refused: ${header.why}`);
      if (header.k === "end") return;
      if (header.k !== "data") continue;
      yield { header, arrays: arraysOf(header, parts) };
      await say({ k: "credit", n: 1, release: [] });
    }
  } catch (error) {
    throw error.code === "EAGAIN" ? new Error(`${output} has said nothing for ${SILENCE_MS / 1000} s`) : error;
  } finally {
    await say({ k: "bye" });
    socket.close();
  }
}

// The arrays of a message by field: {shape, values}, row after row.
function arraysOf(header, parts) {
  const arrays = {};
  for (const [field, dtype, shape] of header.arrays) {
    const bytes = Uint8Array.from(parts.shift()).buffer; // a copy, which is aligned
    arrays[field] = { shape: shape.map(Number), values: new DTYPES[dtype](bytes) };
  }
  return arrays;
}

// The faces as plain objects: landmarks in pixels of the frame as [x, y].
function facesOf({ ids, landmarks, pose }) {
  return Array.from(ids.values, (id, face) => {
    const xy = landmarks.values.subarray(face * 136, (face + 1) * 136);
    return {
      id: Number(id),
      pose: Array.from(pose.values.subarray(face * 3, (face + 1) * 3)),
      landmarks: Array.from({ length: 68 }, (_, point) => [xy[2 * point], xy[2 * point + 1]]),
    };
  });
}

// A picture (height, width, 3) BGR as a BMP file, which holds the same: rows from the bottom, to whole 4 bytes.
function bitmap({ shape: [height, width], values }) {
  const row = Math.ceil((3 * width) / 4) * 4, head = 54;
  const file = Buffer.alloc(head + row * height);
  file.write("BM");
  file.writeUInt32LE(file.length, 2);
  file.writeUInt32LE(head, 10);
  file.writeUInt32LE(40, 14);
  file.writeInt32LE(width, 18);
  file.writeInt32LE(height, 22);
  file.writeUInt16LE(1, 26);
  file.writeUInt16LE(24, 28);
  for (let y = 0; y < height; y++) file.set(values.subarray(3 * width * y, 3 * width * (y + 1)), head + row * (height - 1 - y));
  return file;
}

const { values: wanted, positionals: [graph] } = parseArgs({
  allowPositionals: true,
  options: { faces: { type: "string" }, frame: { type: "string" }, picture: { type: "string", default: "picture.bmp" }, count: { type: "string" } },
});
try {
  if (!graph) throw new Error("usage: node client.mjs GRAPH [--faces node.port] [--frame node.port --picture FILE] [--count N]");
  if (wanted.frame) {
    for await (const { arrays } of messages(graph, wanted.frame)) {
      writeFileSync(wanted.picture, bitmap(arrays.image));
      break;
    }
  }
  let left = Number(wanted.count ?? Infinity);
  for await (const { header, arrays } of wanted.faces ? messages(graph, wanted.faces) : []) {
    console.log(JSON.stringify({ seq: Number(header.seq), pts: header.pts, faces: facesOf(arrays) }));
    if (--left <= 0) break;
  }
} catch (error) {
  console.error(`error: ${error.message}`);
  process.exitCode = 1;
}
