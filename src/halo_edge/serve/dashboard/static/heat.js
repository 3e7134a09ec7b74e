// Layers by neuron groups: what each is worth for the token just made, and what happened there.

import { by, colour, figure, setText } from "./dom.js";

const CELL = 8; // height of a layer, px
const TOP = 20; // for the devices' names
const LEFT = 26; // for the layers' numbers
const SHOWN_MS = 3000; // a mark stays so long
const USUAL_SPAN = 48; // levels that are as far from the usual as colours go
const KINDS = ["taken_over", "filled", "recovered"]; // the first that happened is drawn
const COLOURS = { recovered: "recovered", filled: "filled", taken_over: "taken" };

const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const numbers = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));

// 256 colours through these three.
function ramp(...names) {
  const stops = names.map((name) => numbers(colour(name)));
  return Array.from({ length: 256 }, (_, level) => {
    const at = (level / 255) * 2, i = Math.min(1, Math.floor(at)), part = at - i;
    const mixed = stops[i].map((low, j) => Math.round(low + part * (stops[i + 1][j] - low)));
    return `rgb(${mixed.join(" ")})`;
  });
}

export class Heat {
  constructor() {
    this.canvas = by("heat");
    this.layers = 0;
    this.columns = 0;
    this.groups = 1;
    this.devices = [];
    this.levels = null;
    this.usual = null;
    this.marks = []; // { layer, device, kind, until }
    this.against = false;
    this.words = "";
    this.themed();
    new ResizeObserver(() => this.draw()).observe(this.canvas.parentElement);
    for (const [id, against] of [["heat-token", false], ["heat-usual", true]]) {
      by(id).addEventListener("click", () => this.choose(against));
    }
  }

  choose(against) {
    this.against = against;
    by("heat-token").setAttribute("aria-pressed", String(!against));
    by("heat-usual").setAttribute("aria-pressed", String(against));
    this.themed();
  }

  themed() {
    this.ramp = this.against ? ramp("less", "usual", "more") : ramp("heat-0", "heat-1", "heat-2");
    const scale = by("heat-scale").getContext("2d");
    for (let x = 0; x < 96; x++) {
      scale.fillStyle = this.ramp[Math.round((255 * x) / 95)];
      scale.fillRect(x, 0, 1, 10);
    }
    this.draw();
  }

  // `scale`: of the first frame.
  begin(scale) {
    this.columns = scale.columns;
    this.usual = scale.usual ? bytes(scale.usual) : null;
    this.levels ??= this.usual;
    this.words = `${figure(scale.least, 1)} to ${figure(scale.most, 1)} nats if lost`;
  }

  know(view) {
    this.layers = view.layers;
    this.groups = view.groups;
    this.devices = view.devices.filter((device) => device.groups);
    this.draw();
  }

  show(picture) {
    if (picture.levels) this.levels = bytes(picture.levels);
    const until = performance.now() + SHOWN_MS;
    for (const mark of picture.marks) {
      const kind = KINDS.find((each) => mark[each]);
      this.marks.push({ layer: mark.layer, device: mark.device, kind, until });
    }
    this.draw();
  }

  draw() {
    const { canvas, layers, columns } = this;
    const profiled = this.usual !== null && this.levels?.length === layers * columns;
    by("heat-scale-key").hidden = !profiled;
    for (const id of ["heat-token", "heat-usual"]) by(id).hidden = !profiled;
    if (!layers) return;
    setText("heat-words", this.against ? "less to more than usual" : this.words);
    const width = canvas.clientWidth, height = TOP + layers * CELL, ratio = devicePixelRatio || 1;
    canvas.style.height = `${height}px`;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.font = "10.5px system-ui, sans-serif";
    const wide = (width - LEFT) / Math.max(1, columns);
    if (profiled) this.cells(pen, wide);
    else {
      pen.fillStyle = colour("faint");
      pen.fillRect(LEFT, TOP, width - LEFT, layers * CELL);
    }
    pen.fillStyle = colour("muted");
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    for (let layer = 0; layer < layers; layer += 5) {
      pen.fillText(String(layer), LEFT - 6, TOP + (layer + 0.5) * CELL);
    }
    this.owners(pen, width - LEFT);
    this.happened(pen, width - LEFT);
  }

  cells(pen, wide) {
    for (let layer = 0, i = 0; layer < this.layers; layer++) {
      for (let column = 0; column < this.columns; column++, i++) {
        let level = this.levels[i];
        if (this.against) level = 127.5 * (1 + (level - this.usual[i]) / USUAL_SPAN);
        pen.fillStyle = this.ramp[Math.max(0, Math.min(255, Math.round(level)))];
        pen.fillRect(LEFT + column * wide, TOP + layer * CELL, wide + 0.5, CELL - 0.5);
      }
    }
  }

  span(device, width) {
    const one = width / this.groups;
    return [LEFT + device.first_group * one, device.groups * one];
  }

  owners(pen, width) {
    pen.textAlign = "left";
    for (const device of this.devices) {
      const [x, wide] = this.span(device, width);
      pen.fillStyle = colour("muted");
      pen.fillRect(x, TOP - 4, Math.max(1, wide - 1.5), 2);
      if (wide > 34) {
        pen.save();
        pen.beginPath();
        pen.rect(x, 0, wide - 4, TOP);
        pen.clip();
        pen.fillText(device.name, x, 8);
        pen.restore();
      }
      if (device.first_group) {
        pen.fillStyle = colour("card");
        pen.fillRect(x - 1, TOP, 2, this.layers * CELL);
      }
    }
  }

  happened(pen, width) {
    const now = performance.now();
    this.marks = this.marks.filter((mark) => mark.until > now).slice(-2000);
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    for (const mark of this.marks) {
      const device = this.devices.find((each) => each.number === mark.device);
      if (!device) continue;
      const [x, wide] = this.span(device, width);
      const y = TOP + mark.layer * CELL;
      pen.globalAlpha = still ? 1 : Math.min(1, (mark.until - now) / (SHOWN_MS / 2));
      pen.strokeStyle = colour(COLOURS[mark.kind]);
      pen.lineWidth = 2;
      pen.strokeRect(x + 1, y + 0.5, wide - 3, CELL - 1.5);
    }
    pen.globalAlpha = 1;
  }
}
