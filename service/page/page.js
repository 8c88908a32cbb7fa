// The page: what is asked, when, and where the answer goes.

import { count, find, make } from "./dom.js";
import { EXAMPLES } from "./examples.js";
import { reading } from "./reading.js";
import { Failure, classify, models } from "./service.js";
import { failed, spoken, verdict } from "./verdict.js";

const KEY = "lstm-serve.key";
const empty = [...find("verdict").children]; // what stands there at first
let served = []; // the models that read texts, by GET /models
let answered = null; // the text of the answer that is shown
let running = null; // the AbortController of the request under way

async function send(attempt) {
  running?.abort();
  const controller = new AbortController();
  running = controller;
  busy(true);
  try {
    if (!served.length) await load();
    const asked = { model: find("model").value, ...attempt };
    const answer = await classify(asked, find("key").value, controller.signal);
    const { version, output } = about(answer.model);
    answered = asked.text;
    show(...verdict(answer, asked, output === "sigmoid"));
    compare();
    explain(reading(asked.text, answer.result));
    find("status").textContent = spoken(answer);
    reveal();
    if (answer.version !== version) load().catch(() => {}); // another one serves since; the answer stands
  } catch (error) {
    if (!controller.signal.aborted) fail(error, (change) => send({ ...attempt, ...change }));
  } finally {
    if (running === controller) busy(false);
  }
}

function fail(error, retry) {
  const failure = error instanceof Failure ? error : new Failure("The page has failed", String(error));
  show(failed(failure, retry));
  explain([]);
  find("status").textContent = "";
  if (failure.code === 401) ask();
  reveal();
}

/** Puts the verdict in its place. A focus that stood in the old one goes on to the heading of the new. */
function show(...parts) {
  const held = find("verdict").contains(document.activeElement);
  find("verdict").replaceChildren(...parts);
  if (!held) return;
  const heading = find("verdict").querySelector("h2");
  if (heading) heading.tabIndex = -1;
  (heading ?? find("text")).focus({ preventScroll: true });
}

/** Tells whether the answer is still that of the text in the field. */
function compare() {
  const note = find("earlier");
  if (note) note.hidden = find("text").value.toWellFormed() === answered;
}

function explain(parts) {
  find("reading").hidden = !parts.length;
  find("reading").replaceChildren(...parts);
}

function busy(working) {
  document.body.classList.toggle("busy", working);
  find("verdict").setAttribute("aria-busy", working);
  find("send-label").textContent = working ? "Classifying…" : "Classify";
}

/** On a narrow screen the answer stands below the form. */
function reveal() {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  find("verdict").firstElementChild.scrollIntoView({ block: "nearest", behavior: still ? "auto" : "smooth" });
}

/** Reads the list of models. Raises Failure. */
async function load() {
  const all = await models(find("key").value);
  served = all.filter((model) => model.tokenizer);
  if (!all.length) throw new Failure("No model serves now", "one may be about to", { again: true });
  if (!served.length) throw new Failure("No model here reads texts", "those that serve take token ids, by the API");
  const chosen = find("model").value;
  const first = served.find((model) => model.name === chosen) ?? served.find((model) => model.default) ?? served[0];
  find("model").replaceChildren(...served.map(({ name }) => make("option", { value: name }, name)));
  find("model").value = first.name;
  find("chooser").hidden = served.length === 1;
  introduce();
}

const about = (name) => served.find((model) => model.name === name) ?? {};

function introduce() {
  const { name, version, precision, labels, max_tokens: most, card } = about(find("model").value);
  const kinds = labels.length > 4 ? `${count(labels.length)} labels` : labels.join(", ");
  find("about").textContent = `${name}, version ${version}, ${precision}: ${kinds}; reads up to ${count(most)} tokens`;
  find("card").hidden = !card || find("key").value !== ""; // a link carries no key
  find("card").href = `models/${encodeURIComponent(name)}/card`;
}

/** Shows the field for the API key, which has no place on the page until a key was asked for. */
function ask() {
  find("key-toggle").hidden = false;
  find("key-field").hidden = false;
  find("key-toggle").setAttribute("aria-expanded", "true");
  find("key").select();
}

function closeKey() {
  find("key-field").hidden = true;
  find("key-toggle").setAttribute("aria-expanded", "false");
}

function hear() {
  const form = find("form");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send({ text: find("text").value.toWellFormed(), explain: find("explain").checked });
  });
  form.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    form.requestSubmit();
  });
  find("text").addEventListener("input", compare);
  find("model").addEventListener("change", introduce);
  for (const [name, text] of Object.entries(EXAMPLES)) {
    const button = make("button", { type: "button", class: "link" }, name);
    button.addEventListener("click", () => {
      find("text").value = text;
      form.requestSubmit();
    });
    find("examples").append(button);
  }
  find("send-keys").textContent = navigator.platform.startsWith("Mac") ? "⌘ ↵" : "Ctrl ↵";
}

function keepKey() {
  const key = find("key");
  const stored = (act) => {
    try {
      return act(sessionStorage);
    } catch {
      return null; // the browser keeps nothing: then the field alone does
    }
  };
  key.value = stored((storage) => storage.getItem(KEY)) ?? "";
  find("key-toggle").hidden = !key.value;
  key.addEventListener("input", () => {
    key.value = key.value.replace(/[^\x21-\x7e]/g, ""); // what a header cannot carry is no part of a key
    stored((storage) => storage.setItem(KEY, key.value));
  });
  find("key-field").addEventListener("submit", (event) => {
    event.preventDefault();
    if (find("text").value) find("form").requestSubmit();
    else open();
  });
  find("key-toggle").addEventListener("click", () => {
    if (find("key-field").hidden) ask();
    else closeKey();
  });
  find("key-field").addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    closeKey();
    find("key-toggle").focus();
  });
}

/** At the beginning: the models, and nothing else to say when they are there. */
async function open() {
  try {
    await load();
    show(...empty);
  } catch (error) {
    fail(error, open);
  }
}

hear();
keepKey();
open();
