// Asking the server: with the API key if there is one, and reading what it streams.

import { by } from "./dom.js";

const KEY = "halo-api-key"; // in this tab's storage only
let asking = null;

// One dialog, whoever asks, until there is a key.
function askForKey() {
  asking ??= new Promise((resolve) => {
    const dialog = by("key-dialog");
    const submit = (event) => {
      event.preventDefault();
      sessionStorage.setItem(KEY, by("key").value.trim());
      by("key").value = "";
      dialog.close();
    };
    by("key-form").addEventListener("submit", submit);
    dialog.addEventListener("close", () => {
      by("key-form").removeEventListener("submit", submit);
      asking = null;
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

export class Refused extends Error {}

// As fetch, and again with a key where one is wanted. Throws Refused with the server's words.
export async function request(path, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...options.headers };
    if (key) headers.Authorization = `Bearer ${key}`;
    const answer = await fetch(path, { ...options, headers, cache: "no-store" });
    if (answer.status === 401) {
      await answer.body?.cancel();
      sessionStorage.removeItem(KEY);
      await askForKey();
      if (!sessionStorage.getItem(KEY)) throw new Refused("an API key is needed");
      continue;
    }
    if (!answer.ok) throw new Refused(await words(answer));
    return answer;
  }
}

async function words(answer) {
  try {
    const body = await answer.json();
    return String(body.error?.message ?? body.detail ?? answer.status);
  } catch {
    return `the server answered ${answer.status}`;
  }
}

// The data of each server-sent event, as it comes.
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const data = part.split("\n").filter((line) => line.startsWith("data:"));
        if (data.length) yield data.map((line) => line.slice(5).trimStart()).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
