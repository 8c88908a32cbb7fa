// The text as it was read: each token shaded by its contribution, and the strongest tokens in figures.

import { contribution, count, figure, make, sentence } from "./dom.js";

const STRONGEST = 6; // rows for the label, and as many against it
const GAP = 6; // pixels between a token and its tip
const MIRRORED = { ArrowLeft: "ArrowRight", ArrowRight: "ArrowLeft" }; // where the text runs from right to left

/** What the page shows of an explanation; nothing where none was asked for. */
export function reading(text, { label, contributions, not_explained: reason, dropped_tokens: dropped }) {
  if (contributions === undefined) return [];
  const heading = make("h2", {}, "What each token contributes");
  if (contributions === null) return [heading, make("p", { class: "note soft" }, sentence(`not explained: ${reason}`))];
  const most = Math.max(...contributions.map((token) => Math.abs(token.contribution)), Number.MIN_VALUE);
  return [
    heading,
    make("div", {}, shaded(text, contributions, label, most, dropped), legend(contributions, label, most)),
    strongest(contributions, label, most),
  ];
}

/**
 * The UTF-16 index of an offset in code points, by one walk through the text: ask for ascending offsets. One that lies
 * before the last gives the last, so that of overlapping tokens each piece of text is shown once.
 */
export function indexer(text) {
  let points = 0;
  let units = 0;
  return (offset) => {
    for (; points < offset && units < text.length; points++) units += text.codePointAt(units) > 0xffff ? 2 : 1;
    return units;
  };
}

function shaded(text, contributions, label, most, dropped) {
  const box = make("div", {
    class: "tokens",
    dir: "auto",
    tabindex: 0,
    role: "listbox",
    "aria-label": "The text, token by token; the arrow keys go through it",
  });
  const index = indexer(text);
  const unread = dropped ? { class: "unread" } : {};
  let shown = 0;
  for (const [number, token] of contributions.entries()) {
    const start = index(token.start);
    const end = index(token.end);
    if (end === start) continue;
    if (start > shown) box.append(make("span", number ? {} : unread, text.slice(shown, start)));
    box.append(option(text.slice(start, end), token, label, most, number));
    shown = end;
  }
  if (shown < text.length) box.append(make("span", unread, text.slice(shown)));
  const tip = make("div", { class: "tip", "aria-hidden": "true", hidden: true }); // the options' names say the same
  steer(box, tip);
  return make("div", { class: "text" }, box, tip);
}

function option(text, token, label, most, number) {
  const { contribution: value, unknown } = token;
  const spoken = describe(token, label);
  const element = make("span", { id: `token-${number}`, role: "option", "aria-selected": "false" }, text);
  element.setAttribute("aria-label", `${text}: ${spoken}`);
  element.dataset.contribution = value;
  element.dataset.tip = spoken;
  paint(element, value, most);
  element.classList.add("token");
  element.classList.toggle("unknown", Boolean(unknown));
  return element;
}

function paint(element, value, most) {
  element.className = value < 0 ? "against" : "for";
  element.style.setProperty("--strength", Math.min(Math.abs(value) / most, 1)); // a sum may be more
}

function describe({ contribution: value, unknown }, label) {
  const stance = value === 0 ? `neither for nor against ${label}` : `${value > 0 ? "for" : "against"} ${label}`;
  return `${contribution(value)}, ${stance}${unknown ? "; not in the vocabulary" : ""}`;
}

/** One stop for the tab key; arrow keys and the pointer make a token active, whose figure a tip then shows. */
function steer(box, tip) {
  const options = [...box.querySelectorAll(".token")];
  let active = null;
  let last = 0; // where the keys go on

  const activate = (option) => {
    active?.classList.remove("active");
    active?.setAttribute("aria-selected", "false");
    active = option;
    tip.hidden = !option;
    if (!option) return box.removeAttribute("aria-activedescendant");
    last = options.indexOf(option);
    option.classList.add("active");
    option.setAttribute("aria-selected", "true");
    box.setAttribute("aria-activedescendant", option.id);
    tip.textContent = option.dataset.tip;
    place(tip, option);
  };
  const steps = {
    ArrowRight: () => last + 1,
    ArrowDown: () => last + 1,
    ArrowLeft: () => last - 1,
    ArrowUp: () => last - 1,
    Home: () => 0,
    End: () => options.length - 1,
  };
  box.addEventListener("keydown", (event) => {
    if (event.key === "Escape") activate(null);
    const key = getComputedStyle(box).direction === "rtl" ? (MIRRORED[event.key] ?? event.key) : event.key;
    if (!(key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const next = options[Math.min(Math.max(active ? steps[key]() : last, 0), options.length - 1)];
    next.scrollIntoView({ block: "nearest" });
    activate(next);
  });
  box.addEventListener("focus", () => box.matches(":focus-visible") && activate(options[last]));
  box.addEventListener("blur", () => activate(null));
  box.addEventListener("pointerover", (event) => activate(event.target.closest(".token")));
  box.addEventListener("pointerleave", (event) => {
    if (event.pointerType !== "touch") activate(null); // a finger leaves as soon as it has tapped
  });
  addEventListener("pointerdown", function outside(event) {
    if (!box.isConnected) removeEventListener("pointerdown", outside);
    else if (!box.contains(event.target)) activate(null);
  });
  box.addEventListener("scroll", () => active && place(tip, active));
}

/** Above the token's first line; below it where the window ends. */
function place(tip, option) {
  const token = option.getClientRects()[0];
  const around = tip.offsetParent.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = tip;
  const centred = token.left - around.left + (token.width - width) / 2;
  const top = token.top - height - GAP < 0 ? token.bottom + GAP : token.top - height - GAP;
  tip.style.left = `${Math.max(0, Math.min(centred, around.width - width))}px`;
  tip.style.top = `${top - around.top}px`;
}

function strongest(contributions, label, most) {
  const sorted = summed(contributions).toSorted((a, b) => b.contribution - a.contribution);
  const speakFor = sorted.filter((token) => token.contribution > 0).slice(0, STRONGEST);
  const against = sorted.filter((token) => token.contribution < 0).slice(-STRONGEST).toReversed();
  const tables = [
    [`Most for ${label}`, speakFor],
    [`Most against ${label}`, against],
  ].filter(([, tokens]) => tokens.length);
  return make("div", { class: "strongest" }, ...tables.map(([title, tokens]) => table(title, tokens, most)));
}

/** One entry for each token that differs, with the sum of its contributions and how many they are. */
function summed(contributions) {
  return [...Map.groupBy(contributions, ({ token }) => token).values()].map((alike) => ({
    ...alike[0],
    contribution: alike.reduce((sum, token) => sum + token.contribution, 0),
    times: alike.length,
  }));
}

function table(title, tokens, most) {
  const rows = tokens.map((token) => {
    const { token: text, contribution: value, times } = token;
    const mark = make("span", {}, text);
    const note = times > 1 ? make("small", { class: "soft" }, ` sum of ${count(times)}`) : null;
    paint(mark, value, most);
    mark.classList.toggle("unknown", Boolean(token.unknown));
    return make("tr", {}, make("th", { scope: "row" }, mark, note), make("td", {}, figure(value, contribution(value))));
  });
  return make("table", {}, make("caption", {}, title), make("tbody", {}, ...rows));
}

function legend(contributions, label, most) {
  const unknown = contributions.some((token) => token.unknown);
  return make(
    "p",
    { class: "legend" },
    make("span", {}, `against ${contribution(-most)}`),
    make("span", { class: "scale", "aria-hidden": "true" }),
    make("span", {}, `${contribution(most)} for ${label}`),
    unknown ? make("span", { class: "unknown" }, "not in the vocabulary") : null,
    make("span", { class: "unit" }, `What leaving the token out takes from the logit of ${label}.`),
  );
}
