"use strict";
// Values, names, thumbnails and the dialog about one sample. Text from the data enters the page as text only.
const values = JSON.parse(document.getElementById("values").textContent);
const find = (selector, root = document) => root.querySelector(selector);
const findAll = (selector, root = document) => [...root.querySelectorAll(selector)];

function make(tag, className = "", text = null) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== null) node.textContent = text;
  return node;
}

function bytes(base64) {
  const text = atob(base64), found = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) found[i] = text.charCodeAt(i);
  return found;
}

const unpack = (Type, base64) => new Type(bytes(base64).buffer);

const labels = unpack(Uint16Array, values.labels);
const runnerUp = unpack(Uint16Array, values.runnerUp);
const levels = unpack(Uint16Array, values.confidence);
const measure = values.low < 0 ? "Margin" : "Probability";
let names = null;
const nameOf = (row) => (names === null ? String(row) : names[row]);
const confidenceOf = (row) => values.low + (levels[row] / 65535) * (1 - values.low);
const confidenceText = (row) => (confidenceOf(row) > 0.99 ? ">0.99" : confidenceOf(row).toFixed(2));

async function readNames() {
  if (values.names === null) return;
  const stream = new Blob([bytes(values.names)]).stream().pipeThrough(new DecompressionStream("deflate"));
  names = JSON.parse(await new Response(stream).text());
}

const slots = new Map(), facts = new Map();
if (values.thumbs) unpack(Uint32Array, values.thumbs.rows).forEach((row, slot) => slots.set(row, slot));
if (values.facts) unpack(Uint32Array, values.facts.rows).forEach((row, i) => facts.set(row, values.facts.entries[i]));

function thumb(row) {
  if (!slots.has(row)) return null;
  const { columns, perSheet } = values.thumbs, slot = slots.get(row), place = slot % perSheet;
  const node = make("i", `t s${Math.floor(slot / perSheet)}`);
  node.style.setProperty("--x", place % columns);
  node.style.setProperty("--y", Math.floor(place / columns));
  return node;
}

function dot(cluster) {
  const node = make("i", "dot");
  node.style.background = values.colours[cluster];
  return node;
}

function describe(row) {
  return `${nameOf(row)}, cluster ${labels[row]}, ${measure.toLowerCase()} ${confidenceText(row)}`;
}

function openDetail(row) {
  const dialog = find("#detail"), list = find("dl", dialog), picture = thumb(row);
  const add = (term, ...content) => {
    const line = make("div"), value = make("dd");
    value.append(...content);
    line.append(make("dt", "", term), value);
    list.append(line);
  };
  find(".big", dialog).replaceChildren(...(picture ? [picture] : []));
  find("h3", dialog).textContent = nameOf(row);
  list.replaceChildren();
  add("Row", String(row));
  add("Cluster", dot(labels[row]), String(labels[row]));
  add(measure, confidenceText(row));
  if (runnerUp[row] !== labels[row]) add("Could also be", dot(runnerUp[row]), String(runnerUp[row]));
  for (const [column, value] of facts.get(row) ?? []) add(values.features[column], value);
  dialog.showModal();
}

find("#detail").addEventListener("click", (event) => {
  if (event.target === event.currentTarget) event.currentTarget.close();
});

document.addEventListener("click", (event) => {
  const sample = event.target.closest("button[data-row]");
  if (sample) openDetail(Number(sample.dataset.row));
});

// One stop of the Tab key for each strip; the arrow keys go along it.
for (const strip of findAll(".strip")) {
  const items = findAll("button", strip);
  items.forEach((item, i) => { item.tabIndex = i === 0 ? 0 : -1; });
  strip.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const next = items[items.indexOf(document.activeElement) + step];
    if (!step || !next) return;
    event.preventDefault();
    items.forEach((item) => { item.tabIndex = item === next ? 0 : -1; });
    next.focus();
  });
}
