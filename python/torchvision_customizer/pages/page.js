// Puts the values into the page. Names go in as text only.

const page = JSON.parse(document.getElementById("data").textContent);
const by = (id) => document.getElementById(id);
const whole = (value) => value.toLocaleString("en");
const shapeText = (shape) => (shape ? shape.join("×") : "");

function short(value) {
  for (const [unit, name] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(value) >= unit) return `${(value / unit).toPrecision(3)} ${name}`;
  }
  return String(value);
}

function duration(seconds) {
  const [value, unit] = seconds < 1e-3 ? [seconds * 1e6, "µs"] : [seconds * 1e3, "ms"];
  return `${value >= 100 ? value.toFixed(0) : value.toPrecision(3)} ${unit}`;
}

function against(before, after) {
  if (before === after) return "";
  return `${after > before ? "+" : "−"}${short(Math.abs(after - before))}${before ? ` (${after > before ? "+" : "−"}${Math.abs((after / before - 1) * 100).toPrecision(2)} %)` : ""}`;
}

const percent = (share) => (share && share < 0.001 ? "< 0.1 %" : `${(share * 100).toFixed(share && share < 0.1 ? 1 : 0)} %`);

let model, table, graph;

function summary() {
  const last = page.models.at(-1), first = page.models[0];
  by("title").textContent = page.kind === "diff" ? `${first.name} → ${last.name}` : last.name;
  const changes = page.kind === "diff"
    ? (page.changes.length === 1 ? "1 difference" : `${page.changes.length || "no"} differences`)
    : (last.edits.length === 1 ? "1 change" : `${last.edits.length || "no"} changes`);
  by("about").textContent = [last.class, changes, `one sample of ${shapeText(last.input_shape)}`].join(" · ");
  const before = page.kind === "diff" ? first : last.before ?? last;
  const tiles = [
    ["Parameters", last.parameters, short(last.parameters), against(before.parameters, last.parameters)],
    ["FLOPs", last.flops, short(last.flops), against(before.flops, last.flops)],
    ["Modules", last.modules.length, whole(last.modules.length), page.kind === "diff" ? against(first.modules.length, last.modules.length) : ""],
  ];
  if (last.timed) tiles.push(["Time", last.modules[0].seconds, duration(last.modules[0].seconds), ""]);
  for (const [name, value, text, more] of tiles) {
    const tile = element("div", {}, "", by("totals"));
    element("dt", {}, name, tile);
    const number = element("dd", {"data-value": value, title: whole(value), id: `total-${name.toLowerCase()}`}, text, tile);
    if (more) element("span", {class: "more"}, more, number);
  }
  const {timed} = last;
  by("made").textContent = [
    Object.entries(page.versions).map((entry) => entry.join(" ")).join(", "),
    "FLOPs are of one sample, two for each multiply-add, as torch counts them; what a module has and costs is with the modules in it",
    ...(timed ? [`Time is the median of ${timed.runs} runs of one sample on ${timed.device} with ${timed.threads} thread${timed.threads === 1 ? "" : "s"}, with hooks around each module`] : []),
  ].join(". ") + ".";
}

function parts() {
  by("parts").replaceChildren();
  by("parts").hidden = !model.parts.length;
  for (const part of model.parts) {
    const button = element("button", {title: part.paths.join(", ")}, "", by("parts"));
    element("strong", {}, part.title, button);
    element("span", {class: "quiet"}, part.text || part.paths.join(", "), button);
    for (const [name, key] of [["parameters", "parameters"], ["FLOPs", "flops"]]) {
      const share = model[key] ? part[key] / model[key] : 0;
      element("span", {class: "bar"}, "", button).style.setProperty("--share", `${share * 100}%`);
      element("span", {class: "share"}, `${percent(share)} of ${name}`, button);
    }
    button.addEventListener("click", () => choose(graph.byPath.get(part.paths[0])));
  }
}

// The values of modules none of which is in another: of what is in a module that is listed, they are a part already.
function total(modules, key) {
  const listed = new Set(modules);
  const inListed = (module) => {
    for (let at = graph.parent[graph.byPath.get(module.path)]; at !== undefined; at = graph.parent[at]) {
      if (listed.has(model.modules[at])) return true;
    }
    return false;
  };
  return modules.reduce((sum, module) => sum + (inListed(module) ? 0 : module[key] ?? 0), 0);
}

function pathCell(cell, path, mark, under) {
  const dot = path.lastIndexOf(".") + 1;
  if (mark) element("span", {class: `sign ${kindOf(mark)}`}, mark, cell);
  const holder = dot ? element("span", {class: "quiet"}, "", cell) : null;
  for (const name of path.slice(0, dot).split(".").slice(0, -1)) holder.append(`${name}.`, element("wbr"));
  element("span", {class: "name"}, path.slice(dot) || "model", cell);
  if (under) element("small", {class: "narrow"}, under, cell);
}

function barCell(cell, value, of, text) {
  cell.dataset.value = value ?? "";
  cell.textContent = value ? text(value) : "";
  if (value && of) cell.style.setProperty("--share", `${Math.min(100, (value / of) * 100)}%`);
}

function moduleTable() {
  const root = model.modules[0];
  const columns = [
    {key: "path", title: "Module", value: (m) => m.path,
      cell: (cell, m) => pathCell(cell, m.path, m.mark, [m.class, shapeText(m.shape)].filter(Boolean).join(" · "))},
    {key: "class", title: "Class", value: (m) => m.class, cell: (cell, m) => { cell.textContent = m.class; }},
    {key: "shape", title: "Output", number: true, value: (m) => m.shape && m.shape.reduce((a, b) => a * b, 1),
      cell: (cell, m) => { cell.textContent = shapeText(m.shape); }},
    {key: "parameters", title: "Parameters", number: true, value: (m) => m.parameters, cell: (cell, m) => barCell(cell, m.parameters, root.parameters, whole)},
    {key: "flops", title: "FLOPs", number: true, value: (m) => m.flops, cell: (cell, m) => barCell(cell, m.flops, root.flops, short)},
  ];
  if (model.timed) {
    columns.push({key: "seconds", title: "Time", number: true, value: (m) => m.seconds, cell: (cell, m) => barCell(cell, m.seconds, root.seconds, duration)});
  }
  by("table").classList.toggle("timed", Boolean(model.timed));
  const sum = (rows) => {
    const [parameters, flops, seconds] = ["parameters", "flops", "seconds"].map((key) => total(rows, key));
    return {
      path: {text: `Sum of ${rows.length} module${rows.length === 1 ? "" : "s"}`, value: rows.length},
      parameters: {text: whole(parameters), value: parameters},
      flops: {text: short(flops), value: flops},
      seconds: {text: duration(seconds), value: seconds},
    };
  };
  const text = (m) => [m.path, m.class, m.block, shapeText(m.shape)].filter(Boolean).join(" ");
  return new Table(by("table"), "Modules", columns, model.modules, {text, sum, select: (m) => choose(graph.byPath.get(m.path), "table")});
}

function changeTable() {
  const columns = [
    {key: "path", title: "Where", value: (c) => c.path, cell: (cell, c) => pathCell(cell, c.path, c.mark)},
    {key: "kind", title: "What", value: (c) => c.kind, cell: (cell, c) => { cell.textContent = c.kind; }},
    {key: "text", title: "Difference", value: (c) => c.text, cell: (cell, c) => { cell.textContent = c.text; }},
  ];
  columns.push({key: "change", title: "Parameters", number: true, value: (c) => c.parameters,
    cell: (cell, c) => { cell.textContent = c.parameters ? `${c.parameters > 0 ? "+" : "−"}${whole(Math.abs(c.parameters))}` : ""; }});
  const sum = (rows) => ({path: {text: `${rows.length} difference${rows.length === 1 ? "" : "s"}`, value: rows.length}});
  const select = (change) => {
    const path = change.kind === "tensor" ? change.path.slice(0, Math.max(0, change.path.lastIndexOf("."))) : change.path;
    const holds = (of) => of.modules.some((module) => module.path === path);
    if (!holds(model)) use(page.models.find(holds) ?? model, "changes");
    const index = graph.byPath.get(path);
    if (index !== undefined) choose(index, "table");
  };
  return new Table(by("table"), "Differences", columns, page.changes, {text: (c) => `${c.path} ${c.kind} ${c.text}`, sum, select});
}

function details(index) {
  const module = model.modules[index], place = by("details");
  place.replaceChildren();
  const head = element("p", {}, "", place);
  pathCell(head, module.path, module.mark);
  element("span", {class: "quiet"}, ` ${module.class}${module.block ? ` (block ${module.block})` : ""}`, head);
  const share = (value, of) => (of ? ` (${percent(value / of)})` : "");
  const root = model.modules[0];
  const facts = [
    ["Output", shapeText(module.shape)],
    ["Parameters", module.parameters && `${whole(module.parameters)}${share(module.parameters, root.parameters)}`],
    ["FLOPs", module.flops && `${whole(module.flops)}${share(module.flops, root.flops)}`],
    ["Time", module.seconds && `${duration(module.seconds)}${share(module.seconds, root.seconds)}`],
    ["Inside", module.children.length && !module.flow && "what runs after what is not known: torch.fx cannot trace it"],
    ["A patch can go", module.places.join(", ")],
    ["Changed", model.edits.find((edit) => edit.startsWith(`${module.path}:`))],
  ];
  const list = element("dl", {}, "", place);
  for (const [name, text] of facts) {
    if (!text) continue;
    element("dt", {}, name, list);
    element("dd", {}, text, list);
  }
}

// One module, in the graph, in the table and in the text below the graph.
function choose(index, from) {
  if (index === undefined) return;
  details(index);
  if (from !== "graph") graph.reveal(index);
  if (from !== "table") table.show(model.modules[index]);
}

function refilter() {
  const [marked, leaves] = ["only-marked", "only-leaves"].map((id) => by(id).firstElementChild.checked && !by(id).hidden);
  table.filter(by("filter").value, (row) => (!marked || row.mark) && (!leaves || !row.children?.length));
}

function tab(which) {
  table = which === "changes" ? changeTable() : moduleTable();
  by("only-marked").hidden = which === "changes" || !model.modules.some((module) => module.mark);
  by("only-leaves").hidden = which === "changes";
  for (const button of by("tabs").children) button.setAttribute("aria-pressed", button.dataset.tab === which);
  refilter();
}

function use(chosen, which) {
  model = chosen;
  [...by("which").children].forEach((button, number) => button.setAttribute("aria-pressed", page.models[number] === model));
  graph.show(model);
  parts();
  tab(which);
  by("details").replaceChildren();
  by("marked").hidden = !model.modules.some((module) => module.mark);
  by("recipe").hidden = model.recipe === null;
  by("recipe-text").textContent = model.recipe ?? "";
}

function start() {
  graph = new Graph(by("drawing"), by("frame"), (index) => choose(index, "graph"));
  const shown = () => (by("tabs").querySelector('[aria-pressed="true"]')?.dataset.tab ?? "modules");
  if (page.kind === "diff") {
    by("which").hidden = by("tabs").hidden = false;
    by("marked").textContent = "Show differences";
    by("only-marked").lastChild.textContent = "differs";
    page.models.forEach((of, number) => {
      const button = element("button", {}, `${"AB"[number]}: ${of.name}`, by("which"));
      button.addEventListener("click", () => use(of, shown()));
    });
    for (const [name, title] of [["changes", "Differences"], ["modules", "Modules"]]) {
      element("button", {"data-tab": name}, title, by("tabs")).addEventListener("click", () => tab(name));
    }
  }
  summary();
  use(page.models.at(-1), page.kind === "diff" ? "changes" : "modules");
  by("larger").addEventListener("click", () => graph.scale(1.25));
  by("smaller").addEventListener("click", () => graph.scale(0.8));
  by("fit").addEventListener("click", () => graph.fit());
  by("close").addEventListener("click", () => graph.closeAll());
  by("level").addEventListener("click", () => graph.openLevel());
  by("marked").addEventListener("click", () => graph.openMarked());
  by("filter").addEventListener("input", refilter);
  for (const id of ["only-marked", "only-leaves"]) by(id).addEventListener("change", refilter);
  by("copy").addEventListener("click", async () => {
    getSelection().selectAllChildren(by("recipe-text"));  // and where there is no clipboard, it is selected
    await navigator.clipboard?.writeText(by("recipe-text").textContent);
    by("copy").textContent = "Copied";
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.matches("input")) return;
    event.preventDefault();
    by("filter").focus();
  });
}

start();
