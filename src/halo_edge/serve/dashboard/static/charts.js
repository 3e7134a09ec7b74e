// Two charts of the last three minutes: tokens a second, and the gaps between tokens.

import { by, colour, figure } from "./dom.js";

const SECONDS = 180;
const HEIGHT = 118;

export class Charts {
  constructor() {
    this.seconds = new Map(); // by number, in order
    this.now = 0;
    this.charts = [];
    this.themed();
    const resize = new ResizeObserver(() => this.fit());
    resize.observe(by("rate"));
    resize.observe(by("gaps"));
  }

  // The colours are a theme's, and those of a chart cannot be changed.
  themed() {
    for (const chart of this.charts) chart.destroy();
    const line = (label, name, more = {}) => ({
      label, stroke: colour(name), width: 1.5, points: { show: false },
      value: (_, value) => figure(value), ...more,
    });
    this.charts = [
      this.make("rate", [line("tokens/s", "accent", { fill: `${colour("accent")}22` })]),
      this.make("gaps", [line("median", "accent"), line("99th percentile", "filled", { dash: [5, 3] })]),
    ];
    this.draw();
  }

  make(id, lines) {
    const axis = {
      stroke: colour("muted"), grid: { stroke: colour("grid"), width: 1 },
      ticks: { show: false }, font: "11px system-ui, sans-serif",
    };
    const ago = (second) => (second ? `−${-second} s` : "now");
    return new uPlot({
      width: by(id).clientWidth || 300, height: HEIGHT,
      scales: { x: { time: false, range: [-SECONDS, 0] }, y: { range: (_, low, high) => [0, Math.max(1, high * 1.1 || 1)] } },
      axes: [
        { ...axis, size: 24, splits: () => [-180, -120, -60, 0], values: (_, all) => all.map(ago) },
        { ...axis, size: 40 },
      ],
      series: [{ label: "at", value: (_, second) => (second === null ? "–" : ago(second)) }, ...lines],
      cursor: { drag: { x: false, y: false } },
      padding: [8, 16, 0, 0],
    }, [[], ...lines.map(() => [])], by(id));
  }

  add(now, seconds) {
    for (const each of seconds) this.seconds.set(each.second, each);
    if (now === this.now && !seconds.length) return;
    for (const second of this.seconds.keys()) {
      if (second < now - SECONDS || second >= now) this.seconds.delete(second);
    }
    const moved = now !== this.now;
    this.now = now;
    if (moved) this.draw();
  }

  draw() {
    const known = [...this.seconds.values()].sort((a, b) => a.second - b.second);
    const x = known.map((each) => each.second - this.now + 1);
    this.charts[0]?.setData([x, known.map((each) => each.tokens)]);
    this.charts[1]?.setData([
      x, known.map((each) => each.median_ms), known.map((each) => each.p99_ms),
    ]);
    for (const chart of this.charts) { // the newest values, unless others are pointed at
      if (x.length && (chart.cursor.idx ?? null) === null) chart.setLegend({ idx: x.length - 1 }, false);
    }
  }

  fit() {
    ["rate", "gaps"].forEach((id, i) => {
      const width = by(id).clientWidth;
      if (width && width !== this.charts[i].width) this.charts[i].setSize({ width, height: HEIGHT });
    });
  }

  // Of the last seconds: mean tokens/s, and the gaps of the newest second that has any.
  latest() {
    const recent = [];
    for (let second = this.now - 3; second < this.now; second++) {
      if (this.seconds.has(second)) recent.push(this.seconds.get(second));
    }
    if (!recent.length) return null;
    const gaps = recent.filter((each) => each.median_ms !== null).at(-1);
    return {
      rate: recent.reduce((sum, each) => sum + each.tokens, 0) / recent.length,
      median_ms: gaps?.median_ms ?? null,
      p99_ms: gaps?.p99_ms ?? null,
    };
  }
}
