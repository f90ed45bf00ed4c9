// Keyboard and small gestures; gradio has no shortcut API. Nothing here steals what a person types.
(() => {
  const visible = (element) => element && element.offsetParent !== null;
  const shown = (selector) => [...document.querySelectorAll(selector)].find(visible);
  const typing = (target) =>
    target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName);
  const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

  const HELP = [
    ["Ctrl or ⌘ + Enter", "generate"],
    ["Esc", "cancel what is being drawn"],
    ["Shift + ?", "this help"],
    ["Tab, Enter", "move between controls, press them"],
  ];

  function help() {
    let dialog = document.getElementById("studio-help");
    if (!dialog) {
      dialog = document.createElement("dialog");
      dialog.id = "studio-help";
      dialog.setAttribute("aria-label", "Keyboard shortcuts");
      const rows = HELP.map(([keys, what]) => `<dt><kbd>${keys}</kbd></dt><dd>${what}</dd>`);
      dialog.innerHTML = `<h2>Keyboard</h2><dl>${rows.join("")}</dl><form method="dialog"><button class="pill">Close</button></form>`;
      document.querySelector(".gradio-container").append(dialog);
    }
    if (!dialog.open) dialog.showModal();
  }

  function generate() {
    const button = shown(".generate-button");
    if (button) button.click();
    return Boolean(button);
  }

  function cancel() {
    const button = shown(".cancel-button");
    if (button) button.click();
    return Boolean(button);
  }

  document.addEventListener("keydown", (event) => {
    if (event.isComposing || document.querySelector("dialog[open]")) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && generate()) {
      event.preventDefault();
      event.stopPropagation();
    }
    const listOpen = event.target.getAttribute?.("aria-expanded") === "true";
    if (event.key === "Escape" && !listOpen && cancel()) event.preventDefault();
    if (event.key === "?" && !typing(event.target) && !event.ctrlKey && !event.metaKey) help();
  }, true);

  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-help]")) help();
    const tab = event.target.closest("[data-tab]")?.dataset.tab;
    if (tab) [...document.querySelectorAll("[role=tab]")].find((each) => each.textContent.trim() === tab)?.click();
    // On a phone the picture is below the form: bring it into view when work begins.
    if (event.target.closest(".generate-button, [data-pick=example]") && innerWidth < 800) {
      shown(".stage")?.scrollIntoView({ behavior: calm() ? "auto" : "smooth", block: "center" });
    }
  });

  window.studio = {
    download(id) {
      const link = document.getElementById(id);
      (link?.matches("a") ? link : link?.querySelector("a") ?? link)?.click();
    },
  };
})();
