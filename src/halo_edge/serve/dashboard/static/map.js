// The cluster as a map: the root in the middle, its workers around it.

import { figure, percent, shape, short } from "./dom.js";

// From the most to the least that is shown of a device; the first that fits without overlap.
const STYLES = [
  { kind: "box", width: 168, height: 74, letters: 20, labels: true },
  { kind: "box", width: 122, height: 74, letters: 14, labels: true },
  { kind: "small", width: 92, height: 42, letters: 10, labels: false },
  { kind: "dot", width: 34, height: 34, letters: 0, labels: false },
  { kind: "dot", width: 20, height: 20, letters: 0, labels: false },
];
const GAP = 8;
// Of a link: on one line, or, where the map is narrow, on two.
const LABELS = { wide: { width: 128, height: 18 }, narrow: { width: 78, height: 32 } };
const OUT = { "left out": "idle", loading: "idle", away: "gone", left: "gone" };

export class ClusterMap {
  constructor(host) {
    this.host = host;
    this.svg = shape("svg", { role: "img" });
    host.append(this.svg);
    this.devices = [];
    new ResizeObserver(() => this.draw()).observe(host);
  }

  show(devices) {
    this.devices = devices;
    this.draw();
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.host;
    const [root, ...workers] = this.devices;
    if (!root || !width) return;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("aria-label", inWords(this.devices));
    const lines = width < 520 ? LABELS.narrow : LABELS.wide;
    let style, places;
    for (style of STYLES) {
      places = around(workers.length, width, height, style);
      if (!overlap(places, style, lines)) break;
    }
    const links = [], nodes = [node(root, places[0], style)], labels = [];
    workers.forEach((worker, i) => {
      const at = places[i + 1];
      links.push(link(worker, places[0], at, style));
      if (style.labels && !OUT[worker.state]) labels.push(label(worker, places[0], at, lines));
      nodes.push(node(worker, at, style));
    });
    this.svg.replaceChildren(...links, ...nodes, ...labels);
  }
}

// The root's place, then those of the workers: on an ellipse; many small ones on several.
function around(n, width, height, style) {
  const middle = { x: width / 2, y: height / 2 };
  const rx = (width - style.width) / 2 - 4, ry = (height - style.height) / 2 - 4;
  const rings = style.kind !== "dot" || n <= 20 ? [1] : n <= 40 ? [1, 0.68] : [1, 0.74, 0.48];
  const sum = rings.reduce((a, b) => a + b, 0);
  const places = [middle];
  let left = n;
  rings.forEach((scale, i) => {
    const here = i === rings.length - 1 ? left : Math.round((n * scale) / sum);
    left -= here;
    // Two on the sides, four in the corners; others with one on top.
    const turn = here === 4 || (here <= 2 && width > 1.6 * height) ? 0 : -Math.PI / 2;
    for (const angle of evenly(here, rx * scale, ry * scale, turn, here === 4 ? 0.5 : 0)) {
      places.push({
        x: middle.x + rx * scale * Math.cos(angle),
        y: middle.y + ry * scale * Math.sin(angle),
      });
    }
  });
  return filled(places, width, height, style);
}

// Moved apart until they take all the room there is.
function filled(places, width, height, style) {
  const along = (axis, size) => {
    const all = places.map((place) => place[axis]);
    const low = Math.min(...all), span = Math.max(...all) - low;
    const room = span < 1 ? 0 : Math.min(size - 8, 1.6 * span), start = (size - room) / 2;
    return (at) => (span < 1 ? size / 2 : start + ((at - low) / span) * room);
  };
  const x = along("x", width - style.width), y = along("y", height - style.height);
  return places.map((place) => ({ x: x(place.x) + style.width / 2, y: y(place.y) + style.height / 2 }));
}

// Angles of n places at equal distances along an ellipse, the first so much of one after `turn`.
function evenly(n, rx, ry, turn, late) {
  // For few it is their directions that count.
  if (n <= 4) return Array.from({ length: n }, (_, i) => turn + (2 * Math.PI * (i + late)) / n);
  const STEPS = 720, lengths = [0];
  const step = (2 * Math.PI) / STEPS;
  for (let i = 0; i < STEPS; i++) {
    const angle = turn + i * step;
    lengths.push(lengths[i] + step * Math.hypot(rx * Math.sin(angle), ry * Math.cos(angle)));
  }
  const angles = [];
  for (let i = 0, at = 0; i < n; i++) {
    const wanted = (lengths[STEPS] * (i + late)) / n;
    while (lengths[at + 1] < wanted) at++;
    angles.push(turn + (at + (wanted - lengths[at]) / (lengths[at + 1] - lengths[at])) * step);
  }
  return angles;
}

function overlap(places, style, label) {
  const width = style.width + GAP, height = style.height + GAP;
  const touch = (a, b, width, height) =>
    Math.abs(a.x - b.x) < width && Math.abs(a.y - b.y) < height;
  const any = (all, width, height) =>
    all.some((a, i) => all.slice(i + 1).some((b) => touch(a, b, width, height)));
  if (any(places, width, height)) return true;
  if (!style.labels) return false;
  const [root, ...workers] = places;
  // A label stands halfway between the root and a worker, clear of both and of other labels.
  return any(workers.map((at) => halfway(root, at)), label.width, label.height) ||
    workers.some((at) => touch(root, at, width + label.width, height + label.height));
}

const halfway = (a, b) => ({ x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 });

// The worse of both directions.
const lossOf = (device) => Math.max(device.plr_to ?? 0, device.plr_from ?? 0);
const timeOf = (device) => device.rtt_ms ?? device.answer_ms;

function link(worker, from, to, style) {
  const out = OUT[worker.state];
  const loss = lossOf(worker), time = timeOf(worker);
  const step = loss < 0.005 ? 0 : loss < 0.02 ? 1 : loss < 0.05 ? 2 : 3;
  const kind = out === "gone" ? "gone" : out ? "off" : `loss-${step}`;
  // From 7 px at a tenth of a millisecond to 1.5 at a tenth of a second.
  const most = style.kind === "dot" ? 3 : 7;
  const width = out || time === null ? 2 : Math.max(1.5, Math.min(most, 5.2 - 1.85 * Math.log10(time)));
  return shape("path", {
    class: `link ${kind}`, d: `M${from.x} ${from.y}L${to.x} ${to.y}`, "stroke-width": width.toFixed(1),
  });
}

function label(worker, from, to, room) {
  const { x, y } = halfway(from, to);
  const time = worker.rtt_ms !== null ? `${figure(worker.rtt_ms, 2)} ms` :
    worker.answer_ms !== null ? `answer ${figure(worker.answer_ms, 2)} ms` : "";
  const lost = worker.plr_to === null ? "" : `${percent(lossOf(worker), 2)} % lost`;
  const parts = [time, lost].filter(Boolean);
  const lines = room === LABELS.narrow ? parts : [parts.join(" · ")];
  const wide = 6.1 * Math.max(...lines.map((line) => line.length)) + 8, high = 14 * lines.length + 4;
  return shape("g", { class: "link-label" },
    shape("rect", { x: x - wide / 2, y: y - high / 2, width: wide, height: high, rx: 4 }),
    ...lines.map((line, i) => shape("text", { x, y: y - high / 2 + 13 + 14 * i }, line)));
}

function node(device, at, style) {
  const out = OUT[device.state];
  const kind = device.number === 0 ? "root" : out ?? "";
  const group = shape("g", { class: `node ${kind}` }, shape("title", {}, titleOf(device)));
  if (style.kind === "dot") dot(group, device, at, (device.number ? 0.5 : 0.7) * style.width);
  else box(group, device, at, style);
  return group;
}

function box(group, device, at, style) {
  const { width, height } = style, x = at.x - width / 2, y = at.y - height / 2, pad = 9;
  const out = OUT[device.state];
  group.append(
    shape("rect", { class: "body", x, y, width, height, rx: 9 }),
    shape("text", { class: "name", x: x + pad, y: y + 18 }, short(device.name, style.letters)),
  );
  const bar = (top, kind, share, words) => {
    const long = width - 2 * pad;
    group.append(shape("rect", { class: "track", x: x + pad, y: top, width: long, height: 5, rx: 2.5 }));
    const part = Math.max(0, Math.min(1, share)) * long;
    if (part) group.append(shape("rect", { class: kind, x: x + pad, y: top, width: part, height: 5, rx: Math.min(2.5, part / 2) }));
    if (words) group.append(shape("text", { class: "value", x: x + width - pad, y: top - 4 }, words));
  };
  if (style.kind === "small") {
    if (out) group.append(shape("text", { class: "state", x: x + pad, y: y + 33 }, device.state));
    else bar(y + height - 13, "share", device.share, "");
    return;
  }
  const known = device.memory_mb !== null;
  bar(y + 40, "share", device.share, `${percent(device.share, 2)} %`);
  bar(y + 62, "memory", known ? device.held_mb / device.memory_mb : 0,
    known ? `${megabytes(device.held_mb)} of ${megabytes(device.memory_mb)}` : "");
  group.append(
    shape("text", { class: "state", x: x + pad, y: y + 36 }, out ? device.state : "share"),
  );
  if (width > 150) group.append(shape("text", { class: "what", x: x + pad, y: y + 58 }, "memory"));
}

function dot(group, device, at, radius) {
  const long = 2 * Math.PI * (radius - 2);
  const ring = { cx: at.x, cy: at.y, r: radius - 2 };
  group.append(
    shape("circle", { class: "body", cx: at.x, cy: at.y, r: radius }),
    shape("circle", { class: "arc-track", ...ring }),
    shape("circle", {
      class: "arc", ...ring, "stroke-dasharray": `${device.share * long} ${long}`,
      transform: `rotate(-90 ${at.x} ${at.y})`,
    }),
  );
}

const megabytes = (mb) => (mb < 1000 ? `${Math.round(mb)} MB` : `${figure(mb / 1000, 3)} GB`);

function titleOf(device) {
  const parts = [device.name, device.state, `${percent(device.share, 2)} % of the groups`];
  if (timeOf(device) !== null) parts.push(`${figure(timeOf(device), 2)} ms`);
  if (device.plr_to !== null) parts.push(`${percent(lossOf(device), 2)} % lost`);
  return parts.join(", ");
}

const inWords = (devices) => `${devices.length} devices. ${devices.map(titleOf).join("; ")}`;
