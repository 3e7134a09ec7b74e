// A conversation with the model, and what each answer cost.

import { events, request } from "./api.js";
import { by, element, figure } from "./dom.js";

const MESSAGES = 40; // kept of a conversation

export class Chat {
  constructor() {
    this.messages = [];
    this.abort = null;
    by("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask();
    });
    by("prompt").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.ask();
      }
    });
    by("stop").addEventListener("click", () => this.abort?.abort());
    by("clear").addEventListener("click", () => this.clear());
  }

  clear() {
    this.abort?.abort();
    this.messages = [];
    by("talk").replaceChildren(by("talk-empty") ?? this.empty);
    by("prompt").focus();
  }

  busy(yes) {
    by("send").hidden = yes;
    by("stop").hidden = !yes;
    by("talk").setAttribute("aria-busy", String(yes));
  }

  async ask() {
    const text = by("prompt").value.trim();
    if (!text || this.abort) return;
    by("prompt").value = "";
    this.empty ??= by("talk-empty");
    this.empty.remove();
    this.say("user", text);
    const messages = (this.messages = [...this.messages, { role: "user", content: text }].slice(-MESSAGES));
    const abort = (this.abort = new AbortController());
    this.busy(true);
    const said = this.say("assistant", "");
    let answer = "";
    try {
      const { price } = await this.stream(messages, abort.signal, (piece) => {
        answer += piece;
        said.firstChild.data = answer;
        this.follow();
      });
      this.price(said, price);
    } catch (error) {
      if (error.name === "AbortError") this.price(said, null, "stopped");
      else this.failed(said, error);
    }
    if (this.abort === abort) {
      this.abort = null;
      this.busy(false);
    }
    // Another conversation may have begun meanwhile.
    if (this.messages === messages && answer) messages.push({ role: "assistant", content: answer });
    else if (this.messages === messages) messages.pop();
  }

  async stream(messages, signal, onPiece) {
    this.model ??= (await (await request("v1/models", { signal })).json()).data[0].id;
    const answer = await request("v1/chat/completions", {
      method: "POST",
      signal,
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({
        model: this.model, messages, stream: true, stream_options: { include_usage: true },
      }),
    });
    let price = null;
    for await (const data of events(answer)) {
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(String(chunk.error.message));
      const piece = chunk.choices?.[0]?.delta?.content;
      if (piece) onPiece(String(piece));
      if (chunk.halo) price = chunk.halo;
    }
    return { price };
  }

  say(role, text) {
    const said = element("div", { class: `said ${role}` }, document.createTextNode(text));
    by("talk").append(said);
    this.follow(true);
    return said;
  }

  price(said, price, words = "") {
    const parts = words ? [words] : [];
    if (price) {
      parts.push(
        `${figure(price.nats)} nats`, `fidelity ${figure(price.fidelity, 4)}`,
        `${price.recovered} recovered`, `${price.filled} filled`, `${price.taken_over} taken over`,
        `${price.devices} ${price.devices === 1 ? "device" : "devices"}`,
      );
    }
    if (parts.length) said.append(element("p", { class: "price" }, parts.join(" · ")));
    this.follow();
  }

  failed(said, error) {
    said.append(element("p", { class: "said error" }, error.message || "the answer broke off"));
    this.follow();
  }

  // To the end, unless somebody reads further up.
  follow(always = false) {
    const talk = by("talk");
    if (always || talk.scrollHeight - talk.scrollTop - talk.clientHeight < 60) {
      talk.scrollTop = talk.scrollHeight;
    }
  }
}
