// The table of devices, and the list of events.

import { by, element, figure, percent } from "./dom.js";

const GONE = new Set(["away", "left"]);

export function showDevices(devices) {
  by("rows").replaceChildren(...devices.map((device) => {
    const pair = (a, b) => (a === null ? "–" : `${a}/${b}`);
    const cells = [
      device.state, `${percent(device.share, 2)} %`, figure(device.held_mb),
      device.memory_mb === null ? "–" : String(device.memory_mb), String(device.threads),
      figure(device.compute_ms), figure(device.rtt_ms), figure(device.answer_ms),
      percent(device.plr_to, 2), percent(device.plr_from, 2),
      pair(device.copies_to, device.copies_from),
      ...["recovered", "filled", "taken_over", "late", "went_away"]
        .map((name) => String(device[name])),
    ];
    const head = element("th", { scope: "row", title: device.host }, device.name);
    const kind = GONE.has(device.state) ? { class: "gone" } : {};
    return element("tr", kind, head, ...cells.map((text) => element("td", {}, text)));
  }));
}

let newest = 0;

// The newest first.
export function showEvents(events) {
  const last = events.at(-1)?.number ?? 0;
  if (last === newest && by("events").childElementCount) return;
  newest = last;
  const items = events.map((event) => {
    const at = new Date(event.at_s * 1000);
    const time = element("time", { datetime: at.toISOString() }, at.toTimeString().slice(0, 8));
    return element("li", { class: event.kind }, time, element("span", {}, event.text));
  });
  if (!items.length) items.push(element("li", { class: "note" }, "Nothing yet."));
  by("events").replaceChildren(...items.reverse());
}
