// Keyboard and small gestures; gradio has no shortcut API. Nothing here steals what a person types.
(() => {
  const visible = (element) => element && element.offsetParent !== null;
  const shown = (selector) => [...document.querySelectorAll(selector)].find(visible);
  const typing = (target) =>
    target.isContentEditable || (/^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName) && !/^(radio|checkbox|range)$/.test(target.type));
  const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

  const HELP = [
    ["Ctrl or ⌘ + Enter", "generate"],
    ["Esc", "cancel what is being drawn, close the open picture"],
    ["Shift + ?", "this help"],
    ["Tab, Enter", "move between controls, press them"],
    ["X", "in Compare: swap the flickering pictures"],
    ["1, 0, 2", "in a blind vote: left, tie, right"],
    ["← →", "in Compare: move the slider"],
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
    if (event.key.length === 1 && !typing(event.target) && !event.ctrlKey && !event.metaKey && !event.altKey) {
      press(`[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
    }
    if (event.key === "?" && !typing(event.target) && !event.ctrlKey && !event.metaKey) help();
  }, true);

  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-help]")) help();
    const tab = event.target.closest("[data-tab]")?.dataset.tab;
    if (tab) [...document.querySelectorAll("[role=tab]")].find((each) => each.textContent.trim() === tab)?.click();
    // On a phone the picture is below the form, and a long form may hide it: bring it into view when work begins.
    if (event.target.closest(".generate-button, [data-pick=example], .draws-again")) {
      const top = shown(".stage")?.getBoundingClientRect().top;
      if (innerWidth < 800 || top < -40) reveal(shown(".stage"), "center");
    }
  });

  // --- two pictures over each other: a slider between them, or one or the other ---

  function slideTo(slider, percent) {
    const at = Math.round(Math.min(100, Math.max(0, percent)));
    slider.querySelector("[data-ab]").value = at;
    slider.querySelector("[data-ab]").setAttribute("aria-valuetext", `${at} %`);
    slider.style.setProperty("--at", `${at}%`);
  }

  function drag(event) {
    const slider = event.target.closest?.(".ab");
    if (!slider || (event.type === "pointermove" && !slider.dataset.held)) return;
    const frame = slider.getBoundingClientRect();
    if (event.type === "pointerdown") {
      slider.dataset.held = "yes";
      slider.setPointerCapture(event.pointerId);
      slider.querySelector("[data-ab]").focus({ preventScroll: true });
      event.preventDefault();
    }
    slideTo(slider, (100 * (event.clientX - frame.left)) / frame.width);
  }

  function letGo(event) {
    const slider = event.target.closest?.(".ab");
    if (slider) delete slider.dataset.held;
  }

  document.addEventListener("pointerdown", drag);
  document.addEventListener("pointermove", drag);
  document.addEventListener("pointerup", letGo);
  document.addEventListener("pointercancel", letGo);
  document.addEventListener("input", (event) => {
    if (event.target.matches("[data-ab]")) slideTo(event.target.closest(".ab"), Number(event.target.value));
  });

  // The second picture is seen when it was swapped in by a press, or is hovered over, but not both.
  function swap(flicker, { press, hover }) {
    if (press) flicker.dataset.pressed = flicker.dataset.pressed ? "" : "yes";
    if (hover !== undefined) flicker.dataset.hovered = hover ? "yes" : "";
    const second = Boolean(flicker.dataset.pressed) !== Boolean(flicker.dataset.hovered);
    flicker.setAttribute("aria-pressed", String(second));
    const words = flicker.parentElement.querySelector(".seen-now");
    words.querySelector("b").textContent = second ? words.dataset.second : words.dataset.first;
  }

  document.addEventListener("click", (event) => {
    const flicker = event.target.closest("[data-flicker]");
    if (flicker) swap(flicker, { press: true });
  });
  for (const [type, hover] of [["pointerover", true], ["pointerout", false]]) {
    document.addEventListener(type, (event) => {
      const flicker = event.target.closest?.("[data-flicker]");
      const inside = event.relatedTarget?.closest?.("[data-flicker]") === flicker;
      if (flicker && !inside && event.pointerType === "mouse") swap(flicker, { hover });
    });
  }

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
