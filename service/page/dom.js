// Elements and figures. Text only ever becomes text: nothing on this page parses HTML.

export const find = (id) => document.getElementById(id);

/** An element; attributes that are undefined, null or false are left out. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value || value === 0) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** `<data>`: the figure as people read it, with the exact value as its `value`. */
export const figure = (value, shown) => make("data", { value: String(value) }, shown);

const counts = new Intl.NumberFormat("en");
const times = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const shares = new Intl.NumberFormat("en", { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
const signed = new Intl.NumberFormat("en", {
  minimumFractionDigits: 2,
  maximumFractionDigits: 2,
  signDisplay: "exceptZero",
});

export const count = (value) => counts.format(value);
export const milliseconds = (value) => `${times.format(value)} ms`;
export const contribution = (value) => signed.format(value).replace("-", "−");

/** A score in percent that says neither 0 nor 100 of what is not. */
export function share(score) {
  if (score > 0 && score < 0.0005) return "< 0.1%";
  if (score < 1 && score > 0.9995) return "> 99.9%";
  return shares.format(score);
}

/**
 * The service's own words, which begin small and end without a full stop, as a sentence for those who visit the page:
 * what names a setting, and all that follows it, is for those who run the service.
 */
export function sentence(text) {
  const [plain] = text.replace(/^the body\b/, "the text").split(/ \(LSTMSERVE_|, which [^,]*LSTMSERVE_/);
  const counted = plain.replace(/\b\d{4,}(?= (tokens|bytes|are)\b)/g, (digits) => count(Number(digits)));
  const whole = counted.charAt(0).toUpperCase() + counted.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}
