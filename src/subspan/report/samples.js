// The list of all samples: filtered, sorted, and only the lines in view are in the page.
function startSamples() {
  const grid = find("#grid"), box = find(".rows", grid), spacer = find(".spacer", box), lineHeight = 48, tallest = 8e6; // browsers limit heights
  const inputs = { name: find("#f-name"), cluster: find("#f-cluster"), low: find("#f-low"), high: find("#f-high") };
  const n = values.n, headers = findAll("[data-sort]"), pool = [];
  let lower = null, shown = new Uint32Array(0), at = 0, sort = { key: "confidence", down: false }, timer = 0;

  const rowOrder = Uint32Array.from({ length: n }, (_, i) => i);
  const orders = {};
  function order(key) {
    if (orders[key]) return orders[key];
    const by = {
      name: names === null ? null : (a, b) => (names[a] < names[b] ? -1 : names[a] > names[b] ? 1 : a - b),
      cluster: (a, b) => labels[a] - labels[b] || levels[a] - levels[b] || a - b,
      confidence: (a, b) => levels[a] - levels[b] || a - b,
    }[key];
    orders[key] = by ? rowOrder.slice().sort(by) : rowOrder;
    return orders[key];
  }

  function wanted() {
    const text = inputs.name.value.trim().toLowerCase();
    const cluster = inputs.cluster.value === "" ? -1 : Number(inputs.cluster.value);
    const low = inputs.low.value === "" ? -Infinity : Number(inputs.low.value);
    const high = inputs.high.value === "" ? Infinity : Number(inputs.high.value);
    const tolerance = 1 / 65535;
    if (text && names !== null) lower ??= names.map((name) => name.toLowerCase());
    return (row) => {
      if (cluster >= 0 && labels[row] !== cluster) return false;
      const value = confidenceOf(row);
      if (value < low - tolerance || value > high + tolerance) return false;
      return !text || (lower === null ? String(row) : lower[row]).includes(text);
    };
  }

  function update() {
    const accept = wanted(), sorted = order(sort.key), kept = new Uint32Array(n);
    let count = 0;
    for (let i = 0; i < n; i++) {
      const row = sorted[sort.down ? n - 1 - i : i];
      if (accept(row)) kept[count++] = row;
    }
    shown = kept.subarray(0, count);
    at = 0;
    box.scrollTop = 0;
    spacer.style.height = `${Math.min(count * lineHeight, tallest)}px`;
    grid.setAttribute("aria-rowcount", count + 1);
    find("#f-count").textContent = `${count.toLocaleString("en")} of ${n.toLocaleString("en")}`;
    for (const button of headers) {
      const mine = button.dataset.sort === sort.key;
      button.parentElement.setAttribute("aria-sort", mine ? (sort.down ? "descending" : "ascending") : "none");
    }
    paint();
  }

  // Beyond the tallest height, one pixel of the bar stands for more than one of the list.
  const full = () => Math.max(1, shown.length * lineHeight - box.clientHeight);
  const part = () => Math.max(1, Math.min(shown.length * lineHeight, tallest) - box.clientHeight);
  const offset = () => box.scrollTop * (full() / part());

  function paint() {
    const from = offset(), first = Math.max(0, Math.floor(from / lineHeight) - 2);
    const count = Math.min(Math.ceil(box.clientHeight / lineHeight) + 5, shown.length - first);
    while (pool.length < count) {
      pool.push(makeLine());
      box.append(pool.at(-1).line);
    }
    pool.forEach((item, j) => {
      item.line.hidden = j >= count;
      item.line.style.display = j >= count ? "none" : "";
      if (j < count) fill(item, first + j, (first + j) * lineHeight - from + box.scrollTop);
    });
    if (shown.length) grid.setAttribute("aria-activedescendant", `line-${at}`);
    else grid.removeAttribute("aria-activedescendant");
  }

  function makeLine() {
    const line = make("div", "line"), cells = ["cell-name", "cell", "cell", "cell wide"].map((name) => make("span", name));
    const text = make("span"), meter = make("span", "meter"), bar = make("i"), number = make("span");
    line.setAttribute("role", "row");
    cells.forEach((cell) => cell.setAttribute("role", "gridcell"));
    meter.append(bar);
    cells[2].append(meter, number);
    line.append(...cells);
    line.addEventListener("click", () => { at = Number(line.dataset.index); paint(); openDetail(shown[at]); });
    return { line, cells, text, bar, number };
  }

  function fill({ line, cells, text, bar, number }, index, top) {
    const row = shown[index];
    line.style.transform = `translateY(${top}px)`;
    line.classList.toggle("at", index === at);
    line.setAttribute("aria-selected", index === at);
    if (line.dataset.row === String(row) && line.dataset.index === String(index)) return;
    Object.assign(line.dataset, { row, index });
    line.id = `line-${index}`;
    line.setAttribute("aria-rowindex", index + 2);
    text.textContent = nameOf(row);
    cells[0].title = nameOf(row);
    cells[0].replaceChildren(...(values.thumbs ? [thumb(row) ?? make("i", "none")] : []), text);
    cells[1].replaceChildren(dot(labels[row]), String(labels[row]));
    bar.style.width = `${(levels[row] / 655.35).toFixed(1)}%`;
    number.textContent = confidenceText(row);
    cells[3].replaceChildren(...(runnerUp[row] === labels[row] ? [] : [dot(runnerUp[row]), String(runnerUp[row])]));
  }

  function moveTo(index) {
    at = Math.max(0, Math.min(shown.length - 1, index));
    const from = offset(), top = at * lineHeight, bottom = top + lineHeight - box.clientHeight;
    const target = top < from ? top : bottom > from ? bottom : from;
    box.scrollTop = target * (part() / full());
    paint();
  }

  box.addEventListener("scroll", paint, { passive: true });
  grid.addEventListener("keydown", (event) => {
    if (event.target !== grid && event.target !== box) return; // keys of the buttons in the head
    const page = Math.floor(box.clientHeight / lineHeight) - 1;
    const goal = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: shown.length - 1 }[event.key];
    if (goal === undefined && event.key !== "Enter") return;
    event.preventDefault(); // or the key would close the dialog again
    if (goal !== undefined) moveTo(goal);
    else if (shown.length) openDetail(shown[at]);
  });
  new ResizeObserver(() => {
    find(".head", grid).style.marginRight = `${box.offsetWidth - box.clientWidth}px`; // the width of the scroll bar
    paint();
  }).observe(box);

  for (const input of Object.values(inputs)) {
    input.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(update, n > 20000 ? 120 : 0); });
  }
  find("#f-clear").addEventListener("click", () => {
    for (const input of Object.values(inputs)) input.value = "";
    update();
  });
  for (const button of headers) {
    button.addEventListener("click", () => {
      const key = button.dataset.sort;
      sort = { key, down: sort.key === key && !sort.down };
      update();
    });
  }
  for (const button of findAll("[data-filter]")) {
    button.addEventListener("click", () => {
      for (const input of Object.values(inputs)) input.value = "";
      inputs.cluster.value = button.dataset.filter;
      update();
      find("#samples").scrollIntoView();
      inputs.cluster.focus({ preventScroll: true });
    });
  }
  update();
}

readNames().then(() => {
  startMap();
  startCurves();
  startSamples();
  document.documentElement.dataset.ready = "yes";
});
