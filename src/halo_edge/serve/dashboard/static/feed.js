// The live feed: kept open while the page is in view, taken up again when it breaks.

import { events, request } from "./api.js";

const AGAIN_MS = [500, 1000, 2000, 5000];
const SILENT_MS = 10000; // frames come five times a second

export function listen(onFrame, onState) {
  let open = null;
  let failures = 0;
  let timer = 0;

  async function run() {
    const abort = (open = new AbortController());
    let watchdog = 0;
    const alive = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => abort.abort(), SILENT_MS);
    };
    try {
      const answer = await request("dashboard/feed", { signal: abort.signal });
      alive();
      for await (const data of events(answer)) {
        alive();
        failures = 0;
        onState("live", "live");
        onFrame(JSON.parse(data));
      }
    } catch (error) {
      if (error.name !== "AbortError") onState("lost", error.message || "no connection");
    }
    clearTimeout(watchdog);
    if (open !== abort) return;
    open = null;
    if (document.hidden) return;
    onState("lost", "no connection");
    timer = setTimeout(run, AGAIN_MS[Math.min(failures++, AGAIN_MS.length - 1)]);
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      clearTimeout(timer);
      const was = open;
      open = null;
      was?.abort();
      onState("wait", "paused");
    } else if (!open) {
      clearTimeout(timer);
      run();
    }
  });
  run();
}
