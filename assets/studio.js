// Keyboard and small gestures; gradio has no shortcut API. Nothing here steals what a person types.
(() => {
  const visible = (element) => element && element.offsetParent !== null;
  const shown = (selector) => [...document.querySelectorAll(selector)].find(visible);
  const typing = (target) =>
    target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName);
  const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

  const HELP = [
    ["Ctrl or ⌘ + Enter", "generate"],
    ["Esc", "cancel what is being drawn, close the open picture"],
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

  function press(selector) {
    const button = shown(selector);
    if (button) button.click();
    return Boolean(button);
  }

  function reveal(element, block) {
    element?.scrollIntoView({ behavior: calm() ? "auto" : "smooth", block });
  }

  document.addEventListener("keydown", (event) => {
    if (event.isComposing || document.querySelector("dialog[open]")) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && press(".generate-button")) {
      event.preventDefault();
      event.stopPropagation();
    }
    const listOpen = event.target.getAttribute?.("aria-expanded") === "true";
    if (event.key === "Escape" && !listOpen && (press(".cancel-button") || press(".detail-card .close"))) event.preventDefault();
    if (event.key === "?" && !typing(event.target) && !event.ctrlKey && !event.metaKey) help();
  }, true);

  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-help]")) help();
    const tab = event.target.closest("[data-tab]")?.dataset.tab;
    if (tab) [...document.querySelectorAll("[role=tab]")].find((each) => each.textContent.trim() === tab)?.click();
    // On a phone the picture is below the form: bring it into view when work begins.
    if (event.target.closest(".generate-button, [data-pick=example]") && innerWidth < 800) {
      reveal(shown(".stage"), "center");
    }
  });

  window.studio = {
    // After a click on Generate: an error must be seen, also inside a closed fold or above the fold line.
    showError() {
      const error = document.querySelector(".field-error");
      if (!error) return;
      if (!visible(error)) error.closest(".fold")?.querySelector("button")?.click();
      setTimeout(() => reveal(error, "center"), 50);
    },
    reveal: (id) => reveal(document.getElementById(id), "nearest"),
    download(id) {
      const link = document.getElementById(id);
      (link?.matches("a") ? link : link?.querySelector("a") ?? link)?.click();
    },
  };
})();
