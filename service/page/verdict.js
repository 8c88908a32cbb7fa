// The verdict: the label, the scores of all labels, counts and times. Or why there is none.

import { count, figure, make, milliseconds, sentence, share } from "./dom.js";

const FEW = 4; // labels that keep the model's order; more are sorted by score
const SHOWN = 8; // labels that are shown at once

/** What the page says of an answer to `attempt`; `apart` where the model judges each label by itself. */
export function verdict({ model, version, result, timing }, attempt, apart) {
  const { label, scores } = result;
  const rows = Object.entries(scores);
  if (rows.length > FEW) rows.sort((a, b) => b[1] - a[1]);
  const by = `by ${model}, version ${version}${apart ? "; each score stands by itself" : ""}`;
  const score = make("span", { class: "soft" }, figure(scores[label], share(scores[label])));
  const parts = [
    make("h2", { class: "label" }, label, score),
    make("p", { class: "by soft" }, by),
    make("p", { id: "earlier", class: "soft", hidden: true }, "Of the text as it was: it has been edited since."),
    list(rows.slice(0, SHOWN), label),
  ];
  if (rows.length > SHOWN) {
    const rest = rows.slice(SHOWN);
    parts.push(make("details", {}, make("summary", {}, `${count(rest.length)} more labels`), list(rest, label)));
  }
  return [...parts, facts(result, timing, attempt)];
}

/** The same in one sentence, for those who do not see it. */
export function spoken({ result }) {
  const { label, scores, kept_tokens: kept } = result;
  return `${label}, ${share(scores[label])}. ${count(kept)} ${kept === 1 ? "token" : "tokens"} read.`;
}

function list(rows, winner) {
  const items = rows.map(([label, score]) => {
    const bar = make("i");
    bar.style.setProperty("--score", score);
    return make(
      "li",
      { class: label === winner && "winner" },
      make("span", {}, label),
      figure(score, share(score)),
      make("span", { class: "bar", "aria-hidden": "true" }, bar),
    );
  });
  return make("ol", { class: "scores" }, ...items);
}

function facts(result, timing, { truncate }) {
  const { tokens, kept_tokens: kept, dropped_tokens: dropped, unknown_tokens: unknown, contributions } = result;
  const left = truncate === "tail" ? "beginning" : "end";
  const entries = [
    ["Tokens read", kept, count(kept), dropped ? `of ${count(tokens)}: not the ${left}` : null],
    ["Unknown tokens", unknown, count(unknown), null],
    ["Queue", timing.queue, milliseconds, null],
    ["Compute", timing.compute, milliseconds, contributions ? "with the explanation" : null],
    ["Round trip", timing.roundTrip, milliseconds, null],
  ];
  const list = make("dl", { class: "facts" });
  for (const [name, value, shown, note] of entries) {
    if (value === undefined) continue; // a proxy took the header away
    const text = typeof shown === "function" ? shown(value) : shown;
    const detail = note && make("small", {}, note);
    list.append(make("div", {}, make("dt", {}, name), make("dd", {}, figure(value, text), detail)));
  }
  return list;
}

/** What the page says of a Failure. `retry` tries again, with changes of what was asked. */
export function failed(failure, retry) {
  const remedies = make("p", { class: "remedies" });
  if (failure.code === "too_long" && failure.detail.includes("truncate")) { // a text of too many bytes has no such way
    remedies.append(
      remedy("Read its beginning", () => retry({ truncate: "head" })),
      remedy("Read its end", () => retry({ truncate: "tail" })),
    );
  }
  if (failure.again) remedies.append(again(failure.wait, retry));
  const wait = failure.wait ? ` It asks to wait ${failure.wait === 1 ? "a second" : `${failure.wait} seconds`}.` : "";
  return make(
    "div",
    { class: "failure", role: "alert" },
    make("h2", {}, failure.title),
    make("p", {}, sentence(failure.detail) + wait),
    failure.identity && make("p", { class: "identity soft" }, `Request ${failure.identity}`),
    remedies.hasChildNodes() ? remedies : null,
  );
}

function remedy(text, act) {
  const button = make("button", { type: "button", class: "remedy" }, text);
  button.addEventListener("click", act);
  return button;
}

/** A button that counts down the seconds which the service asks to wait. */
function again(wait, retry) {
  const button = remedy("Try again", () => retry({}));
  const until = performance.now() + wait * 1000;
  const tick = () => {
    const left = Math.ceil((until - performance.now()) / 1000);
    button.disabled = left > 0;
    button.textContent = left > 0 ? `Try again in ${left} s` : "Try again";
    if (left > 0) setTimeout(tick, 250);
  };
  tick();
  return button;
}
