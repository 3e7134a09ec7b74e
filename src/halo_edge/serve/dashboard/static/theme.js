// Light or dark: as the system has it, until somebody chooses.

import { by } from "./dom.js";

const THEME = "halo-theme";

export function theme(onChange) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const chosen = localStorage.getItem(THEME);
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;
  const dark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const words = () => (by("theme").textContent = dark() ? "Light" : "Dark");
  by("theme").addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    localStorage.setItem(THEME, root.dataset.theme);
    words();
    onChange();
  });
  system.addEventListener("change", () => {
    words();
    onChange();
  });
  words();
}
