// The map of codes: points on a canvas, the sample under the pointer or at the keyboard's place, clusters on and off.
function startMap() {
  const rows = unpack(Uint32Array, values.map.rows), xy = unpack(Uint16Array, values.map.xy);
  const canvas = find(".plane canvas"), tip = find(".tip"), pen = canvas.getContext("2d");
  const hidden = new Set(), reach = 16, margin = 22, middle = 32767.5;
  let width = 0, height = 0, scale = 0, at = -1, raised = -1, waiting = false;

  const visible = (i) => !hidden.has(labels[rows[i]]);
  function place(i) {
    return [width / 2 + (xy[2 * i] - middle) * scale, height / 2 + (xy[2 * i + 1] - middle) * scale];
  }
  // Both axes alike, as large as the plane allows.
  function fit() {
    let w = 1, h = 1;
    for (let i = 0; i < rows.length; i++) {
      w = Math.max(w, Math.abs(xy[2 * i] - middle));
      h = Math.max(h, Math.abs(xy[2 * i + 1] - middle));
    }
    scale = Math.min((width / 2 - margin) / w, (height / 2 - margin) / h);
  }

  function drawPoint(i, radius) {
    const [x, y] = place(i);
    pen.beginPath();
    pen.arc(x, y, radius, 0, 7);
    pen.fill();
  }

  function draw() {
    waiting = false;
    const style = getComputedStyle(document.body);
    const ink = style.getPropertyValue("--ink"), surface = style.getPropertyValue("--surface");
    pen.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const radius = rows.length > 1500 ? 2.6 : 3.4;
    for (let i = 0; i < rows.length; i++) {
      if (!visible(i)) continue;
      const cluster = labels[rows[i]];
      pen.globalAlpha = raised < 0 || raised === cluster ? 0.82 : 0.1;
      pen.fillStyle = values.colours[cluster];
      drawPoint(i, radius);
    }
    pen.globalAlpha = 1;
    drawNumbers(ink, surface);
    if (at >= 0) {
      const [x, y] = place(at);
      pen.lineWidth = 2;
      pen.strokeStyle = ink;
      pen.beginPath();
      pen.arc(x, y, 7, 0, 7);
      pen.stroke();
    }
  }

  function drawNumbers(ink, surface) {
    const sums = new Map();
    for (let i = 0; i < rows.length; i++) {
      if (!visible(i)) continue;
      const [x, y] = place(i), sum = sums.get(labels[rows[i]]) ?? [0, 0, 0];
      sums.set(labels[rows[i]], [sum[0] + x, sum[1] + y, sum[2] + 1]);
    }
    pen.font = "600 13px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.lineWidth = 4;
    pen.lineJoin = "round";
    const written = [];
    for (const [cluster, [x, y, count]] of sums) {
      if (raised >= 0 && raised !== cluster) continue;
      if (written.some(([u, v]) => Math.hypot(u - x / count, v - y / count) < 12)) continue; // no number over another
      written.push([x / count, y / count]);
      pen.strokeStyle = surface;
      pen.strokeText(cluster, x / count, y / count);
      pen.fillStyle = ink;
      pen.fillText(cluster, x / count, y / count);
    }
  }

  function redraw() {
    if (!waiting) requestAnimationFrame(draw);
    waiting = true;
  }

  function select(i) {
    if (i === at) return;
    at = i;
    tip.hidden = i < 0;
    if (i >= 0) showTip(rows[i], ...place(i));
    redraw();
  }

  function showTip(row, x, y) {
    const picture = thumb(row), line = make("div");
    const lines = (facts.get(row) ?? []).map(([column, value]) => make("div", "muted num", `${values.features[column]} ${value}`));
    line.append(dot(labels[row]), ` Cluster ${labels[row]} · ${confidenceText(row)}`);
    tip.replaceChildren(...(picture ? [picture] : []), make("div", "", nameOf(row)), line, ...lines);
    const left = x + 14 + tip.offsetWidth > width ? x - 14 - tip.offsetWidth : x + 14;
    const top = Math.max(6, Math.min(y - tip.offsetHeight / 2, height - tip.offsetHeight - 6));
    tip.style.transform = `translate(${Math.max(6, left)}px, ${top}px)`;
  }

  function nearest(x, y, accept = () => true) {
    let best = -1, least = Infinity;
    for (let i = 0; i < rows.length; i++) {
      if (!visible(i)) continue;
      const [px, py] = place(i), distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < least && accept(px - x, py - y)) [best, least] = [i, distance];
    }
    return [best, Math.sqrt(least)];
  }

  function under(event) {
    const box = canvas.getBoundingClientRect();
    const [i, distance] = nearest(event.clientX - box.left, event.clientY - box.top);
    return distance <= reach ? i : -1;
  }

  const directions = {
    ArrowRight: (dx, dy) => dx > 0 && Math.abs(dy) <= dx,
    ArrowLeft: (dx, dy) => dx < 0 && Math.abs(dy) <= -dx,
    ArrowDown: (dx, dy) => dy > 0 && Math.abs(dx) <= dy,
    ArrowUp: (dx, dy) => dy < 0 && Math.abs(dx) <= -dy,
  };
  function onKey(event) {
    if (event.key === "Escape") return select(-1);
    if (!(event.key in directions) && event.key !== "Enter") return;
    event.preventDefault();
    if (event.key === "Enter") return at >= 0 && openDetail(rows[at]);
    const [x, y] = at < 0 ? [width / 2, height / 2] : place(at);
    const [i] = at < 0 ? nearest(x, y) : nearest(x, y, directions[event.key]);
    if (i < 0) return;
    select(i);
    find("#map-say").textContent = describe(rows[i]);
  }

  canvas.addEventListener("pointermove", (event) => select(under(event)));
  canvas.addEventListener("pointerleave", () => select(-1));
  canvas.addEventListener("blur", () => select(-1));
  canvas.addEventListener("click", (event) => {
    const i = under(event);
    if (i >= 0) openDetail(rows[i]);
  });
  canvas.addEventListener("keydown", onKey);

  const chips = findAll(".chip");
  function show(chip, wanted) {
    chip.setAttribute("aria-pressed", wanted);
    hidden[wanted ? "delete" : "add"](Number(chip.dataset.cluster));
    select(-1);
    redraw();
  }
  for (const chip of chips) {
    const raise = (cluster) => { raised = cluster; redraw(); };
    chip.addEventListener("click", () => show(chip, chip.getAttribute("aria-pressed") === "false"));
    for (const name of ["pointerenter", "focus"]) chip.addEventListener(name, () => raise(Number(chip.dataset.cluster)));
    for (const name of ["pointerleave", "blur"]) chip.addEventListener(name, () => raise(-1));
  }
  for (const button of findAll("[data-all]")) {
    button.addEventListener("click", () => chips.forEach((chip) => show(chip, button.dataset.all === "1")));
  }

  new ResizeObserver(() => {
    [width, height] = [canvas.clientWidth, canvas.clientHeight];
    [canvas.width, canvas.height] = [width * devicePixelRatio, height * devicePixelRatio];
    fit();
    draw();
  }).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}
