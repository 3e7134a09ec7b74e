// The page: gives what the feed brings to the parts that show it.

import { Charts } from "./charts.js";
import { Chat } from "./chat.js";
import { by, figure, percent, setText } from "./dom.js";
import { listen } from "./feed.js";
import { Heat } from "./heat.js";
import { showDevices, showEvents } from "./lists.js";
import { ClusterMap } from "./map.js";
import { theme } from "./theme.js";

const map = new ClusterMap(by("map"));
const heat = new Heat();
const charts = new Charts();
new Chat();
theme(() => {
  charts.themed();
  heat.themed();
});

function know(view) {
  const { spent, load } = view;
  setText("model", view.model);
  const outlook = view.tpot_ms === null ? "" :
    ` · predicted TPOT ${figure(view.tpot_ms)} ms, no plan beats ${figure(view.bound_ms)} ms`;
  setText("plan", `Plan: ${view.plan}${outlook}`);
  setText("t-requests", String(load.running));
  setText("t-requests-note", load.waiting ? `running, ${load.waiting} waiting` : "running");
  setText("t-kv", `${percent(load.kv_used, 2)} %`);
  setText("t-kv-note", load.kv_kept ? `${percent(load.kv_kept, 2)} % kept for reuse` : "in use");
  setText("t-budget", view.budget === null ? "strict" : `${percent(view.budget, 2)} %`);
  setText("t-budget-note", view.budget === null ? "nothing is gone without" : "left to spend");
  setText("t-nats", figure(spent.nats));
  setText("n-recovered", String(spent.recovered));
  setText("n-filled", String(spent.filled));
  setText("n-taken", String(spent.taken_over));
  by("heat").closest("section").hidden = view.devices.length < 2;
  map.show(view.devices);
  heat.know(view);
  showDevices(view.devices);
  showEvents(view.events);
}

listen((frame) => {
  if (frame.scale) heat.begin(frame.scale);
  if (frame.view) know(frame.view);
  if (frame.heat) heat.show(frame.heat);
  else if (heat.marks.length) heat.draw();
  charts.add(frame.second, frame.rates);
  const latest = charts.latest();
  if (latest) {
    setText("t-rate", figure(latest.rate));
    setText("t-gap", latest.median_ms === null ? "–" : `${figure(latest.median_ms)} ms`);
    setText("t-gap-note", latest.p99_ms === null ? "median" : `median; p99 ${figure(latest.p99_ms)} ms`);
  }
}, (state, words) => {
  by("status").dataset.state = state;
  setText("status", words);
});
