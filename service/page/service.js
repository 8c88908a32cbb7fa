// What the page asks of the service. Addresses are relative to the page.

const TITLES = {
  401: "An API key is needed",
  403: "This API key may not do that",
  404: "No such model serves here",
  408: "The text was too long on its way",
  413: "The text is too large",
  415: "The service does not take this",
  422: "The service does not take this",
  429: "The service is busy",
  500: "The service has failed",
  503: "The service is not ready",
  504: "The answer took too long",
};
const TEXT_TITLES = {
  empty: "There is nothing to read",
  too_long: "The text is too long to be read whole",
  unknown_only: "None of these words is known",
};
const FOREIGN = "what came back is not from the service: something in between may have answered";
const TYPE_KEY = "type your key above, then Enter";
const PASSING = new Set([408, 429, 500, 502, 503, 504]); // the same request may well succeed later

/** Why there is no answer, for a person: a title, the service's own detail, and what may help. */
export class Failure extends Error {
  constructor(title, detail, { code, again = false, wait = 0, identity } = {}) {
    super(detail);
    Object.assign(this, { title, detail, code, again, wait, identity });
  }
}

/** The models that serve, as in `GET /models`. Raises Failure. */
export async function models(key) {
  return (await ask("models", key, areModels)).document;
}

const areModels = (document) => Array.isArray(document) && document.every((model) => typeof model?.name === "string");

/** One text by one model: `{model, version, result, timing}`. Raises Failure, or AbortError when `signal` says so. */
export async function classify({ text, model, explain, truncate }, key, signal) {
  const began = performance.now();
  const body = JSON.stringify({ texts: [text], explain, truncate });
  const address = `models/${encodeURIComponent(model)}/classify`;
  const { document, headers } = await ask(address, key, isAnswer, { method: "POST", body, signal });
  const roundTrip = performance.now() - began;
  const [result] = document.results;
  if (result.error) {
    const { code, detail } = result.error;
    throw new Failure(TEXT_TITLES[code] ?? "The text cannot be classified", detail, { code });
  }
  const timing = { ...serverTiming(headers.get("Server-Timing") ?? ""), roundTrip };
  return { model: document.model, version: document.version, result, timing };
}

function isAnswer(document) {
  const result = document?.results?.[0];
  return typeof result?.error?.detail === "string" || typeof result?.scores?.[result.label] === "number";
}

/** The document of a reply that is `expected`. Raises Failure, also for a reply that is not the service's. */
async function ask(address, key, expected, options = {}) {
  const headers = { Accept: "application/json" };
  if (options.body) headers["Content-Type"] = "application/json";
  if (key) headers.Authorization = `Bearer ${key}`;
  let response, body;
  try {
    response = await fetch(address, { ...options, headers });
    body = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The service cannot be reached", "nothing came back: see to the connection, then try again", {
      again: true,
    });
  }
  const document = parsed(body);
  if (response.ok && expected(document)) return { document, headers: response.headers };
  throw refused(response, document, key);
}

function refused(response, document, key) {
  const { status, headers } = response;
  const wrong = status === 401 && key;
  const title = wrong ? "This API key is not known" : (TITLES[status] ?? `The service answered with ${status}`);
  const ours = typeof document?.detail === "string"; // what stands in between may answer in JSON too
  let detail = ours ? document.detail : FOREIGN;
  if (ours && status === 401) detail = `${wrong ? "it may be mistyped, or have been removed: " : ""}${TYPE_KEY}`;
  return new Failure(title, detail, {
    code: status,
    again: PASSING.has(status),
    wait: Number.parseInt(headers.get("Retry-After"), 10) || 0,
    identity: headers.get("X-Request-ID"),
  });
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** Milliseconds by name: `queue;dur=0.1, compute;dur=2.5`. */
function serverTiming(header) {
  const durations = header.matchAll(/(\w+);dur=([\d.]+)/g);
  return Object.fromEntries([...durations].map(([, name, duration]) => [name, Number(duration)]));
}
