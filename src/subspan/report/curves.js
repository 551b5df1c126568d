// Curves of the training: one small chart for each term, coloured by phase.
const phaseColours = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"];

function svg(tag, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

const shortNumber = (v) => (Number.isInteger(v) && Math.abs(v) < 1e5 ? String(v) : String(Number(v.toPrecision(3))));

function drawCurve(term, phase) {
  const W = 260, H = 120, left = 44, right = 6, top = 8, bottom = 18;
  const points = term.y.map((y, i) => [i, y]).filter(([, y]) => y !== null);
  const figure = make("figure", "curve"), caption = make("figcaption"), now = make("span");
  caption.append(make("b", "", term.name), now);
  figure.append(caption);
  if (!points.length) return figure;
  const rest = shortNumber(points.at(-1)[1]);
  now.textContent = rest;
  if (points.length === 1) return figure;

  const ys = points.map(([, y]) => y), low = Math.min(...ys), high = Math.max(...ys);
  const log = low > 0 && high > 100 * low, f = log ? Math.log10 : (v) => v;
  const flat = f(high) === f(low), n = term.y.length;
  const x = (i) => left + (i / (n - 1)) * (W - left - right);
  const y = (v) => (flat ? (top + H - bottom) / 2 : H - bottom - ((f(v) - f(low)) / (f(high) - f(low))) * (H - top - bottom));
  const picture = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img" });
  picture.setAttribute("aria-label", `${term.name}: from ${shortNumber(ys[0])} to ${rest}, between ${shortNumber(low)} and ${shortNumber(high)}`);
  for (const v of flat ? [low] : [low, high]) {
    picture.append(svg("line", { class: "rule", x1: left, x2: W - right, y1: y(v), y2: y(v) }));
    const text = svg("text", { x: left - 5, y: y(v) + 3, "text-anchor": "end" });
    text.textContent = shortNumber(v);
    picture.append(text);
  }
  for (const [i, anchor] of [[0, "start"], [n - 1, "end"]]) {
    const text = svg("text", { x: x(i), y: H - 4, "text-anchor": anchor });
    text.textContent = i === 0 ? (log ? "1 (log scale)" : "1") : `epoch ${n}`;
    picture.append(text);
  }
  values.curves.phases.forEach((_, p) => {
    const mine = points.filter(([i]) => phase[i] === p), stroke = phaseColours[p % phaseColours.length];
    if (mine.length === 1) picture.append(svg("circle", { cx: x(mine[0][0]), cy: y(mine[0][1]), r: 2.4, fill: stroke }));
    else picture.append(svg("polyline", { class: "line", stroke, points: mine.map(([i, v]) => `${x(i).toFixed(1)},${y(v).toFixed(1)}`).join(" ") }));
  });
  const mark = svg("circle", { r: 3.2, fill: "currentColor", visibility: "hidden" });
  picture.append(mark);
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect(), i = (((event.clientX - box.left) / box.width) * W - left) / (W - left - right) * (n - 1);
    const [j, v] = points.reduce((best, point) => (Math.abs(point[0] - i) < Math.abs(best[0] - i) ? point : best));
    mark.setAttribute("cx", x(j));
    mark.setAttribute("cy", y(v));
    mark.setAttribute("visibility", "visible");
    now.textContent = `epoch ${j + 1}: ${shortNumber(v)}`;
  });
  picture.addEventListener("pointerleave", () => {
    mark.setAttribute("visibility", "hidden");
    now.textContent = rest;
  });
  figure.append(picture);
  return figure;
}

function startCurves() {
  const place = find("#curves");
  if (!place) return;
  const legend = make("div", "phases");
  values.curves.phases.forEach((name, p) => {
    const item = make("span"), bar = make("i");
    bar.style.background = phaseColours[p % phaseColours.length];
    item.append(bar, name);
    legend.append(item);
  });
  place.append(legend);
  for (const { title, terms } of values.curves.groups) {
    const grid = make("div", "curves");
    grid.append(...terms.map((term) => drawCurve(term, values.curves.phase)));
    place.append(make("h3", "", title), grid);
  }
}
