// The graph: modules as boxes, each with the modules in it once it is opened.

const FONT = "system-ui, sans-serif";
const HEAD = 46, PAD = 14, SIGNS = 8;

class Graph {
  // select is called with the index of a module.
  constructor(svg, frame, select) {
    this.svg = svg;
    this.frame = frame;
    this.select = select;
    this.zoom = 1;
    this.pen = document.createElement("canvas").getContext("2d");
    svg.addEventListener("click", (event) => this.click(event));
    svg.addEventListener("keydown", (event) => this.key(event));
    frame.addEventListener("wheel", (event) => this.wheel(event), {passive: false});
    this.drag();
  }

  show(model) {
    this.modules = model.modules;
    this.inputShape = model.input_shape;
    this.byPath = new Map(model.modules.map((module, index) => [module.path, index]));
    this.parts = new Map(model.parts.flatMap((part) => part.paths.map((path) => [path, part.title])));
    this.inside = model.modules.map(() => new Map());
    this.parent = [];
    this.count(0);
    this.opened = new Set([0]);
    this.current = null;
    // Something to see at first: levels as long as they fit, and the way to one patch.
    for (let more = this.closed(0); more.length && more.length <= 8 && this.opened.size < 4;) {
      if (more.reduce((sum, index) => sum + this.modules[index].children.length, 0) > 26) break;
      more.forEach((index) => this.opened.add(index));
      more = more.flatMap((index) => this.closed(index));
    }
    const first = this.modules.findIndex((module) => module.mark);
    if (first > 0) this.openTo(first);
    this.draw();
    this.fit();
  }

  // What a marked module is called: its block, or the only one in it where it just holds one.
  nameOf(index) {
    const {block, children, ...module} = this.modules[index];
    return block ?? (children.length === 1 && module.class === "Sequential" ? this.nameOf(children[0]) : module.class);
  }

  // Where each module is, and what is marked in it, outermost.
  count(index) {
    const {mark, children} = this.modules[index];
    for (const child of children) {
      this.parent[child] = index;
      this.count(child);
      for (const [sign, number] of this.inside[child]) this.inside[index].set(sign, (this.inside[index].get(sign) ?? 0) + number);
      const module = this.modules[child];
      if (module.mark && (module.mark !== mark || mark === "~")) {
        const sign = `${module.mark} ${this.nameOf(child)}`;
        this.inside[index].set(sign, (this.inside[index].get(sign) ?? 0) + 1);
      }
    }
  }

  closed(index) { return this.modules[index].children.filter((child) => this.modules[child].children.length && !this.opened.has(child)); }

  openTo(index) { for (let at = this.parent[index]; at !== undefined; at = this.parent[at]) this.opened.add(at); }

  openMarked() {
    this.modules.forEach((module, index) => { if (module.mark && !this.modules[this.parent[index]]?.mark) this.openTo(index); });
    this.redraw();
  }

  openLevel() {
    const add = [...this.opened].flatMap((index) => this.closed(index));
    add.forEach((index) => this.opened.add(index));
    this.redraw();
  }

  closeAll() {
    this.opened = new Set([0]);
    this.redraw();
  }

  toggle(index, open = !this.opened.has(index)) {
    if (!this.modules[index].children.length) return;
    this.opened[open ? "add" : "delete"](index);
    this.redraw();
  }

  // The steps of an opened module: boxes and edges.
  steps(index, key) {
    const {path, flow, children} = this.modules[index];
    const prefix = path ? `${path}.` : "";
    const boxes = [];
    if (!flow) {
      for (const child of children) boxes.push(this.box(child, `${key}/${boxes.length}`));
      return {boxes, edges: []};
    }
    const run = new Set();
    for (const node of flow.nodes) {
      const child = node.module === undefined ? undefined : this.byPath.get(prefix + node.module);
      boxes.push(child === undefined ? this.sign(node.op ?? node.module) : this.box(child, `${key}/${boxes.length}`));
      for (let at = child; at !== undefined && at !== index; at = this.parent[at]) run.add(at);
    }
    for (const child of children) if (!run.has(child)) boxes.push({...this.box(child, `${key}/${boxes.length}`), idle: true});
    return {boxes, edges: flow.edges};
  }

  sign(text) {
    const w = text.length === 1 ? 22 : this.width(text, 11.5) + 18;
    return {w, h: 22, draw: (at) => {
      const group = add(at, "g", {class: "op"});
      add(group, "rect", {width: w, height: 22, rx: 11});
      add(group, "text", {x: w / 2, y: 15.5, "text-anchor": "middle"}, text);
    }};
  }

  box(index, key) {
    const module = this.modules[index];
    const name = module.path.slice(module.path.lastIndexOf(".") + 1), opens = module.children.length > 0;
    const open = opens && this.opened.has(index);
    const signs = open ? [] : [...this.inside[index]].map(([sign, number]) => (number > 1 ? `${sign} ×${number}` : sign));
    const mark = module.mark ? `${module.mark} ` : "";
    const under = [shapeText(module.shape), module.parameters ? `${short(module.parameters)} parameters` : ""].filter(Boolean).join(" · ");
    const part = this.parts.get(module.path);
    const title = mark + name, nameWidth = this.width(title, 13, 600);
    const indent = opens ? 16 : 0;
    let first = indent + nameWidth + 8 + this.width(module.class, 12);
    const places = signs.map((text) => { const x = first + SIGNS; first = x + this.width(text, 11.5, 600) + 12; return x; });
    if (part) first += 14 + this.width(part, 11);
    const own = Math.max(first, indent + this.width(under, 11.5)) + 2 * PAD;
    let w = own, h = HEAD, axis = w / 2, at = 0, inner = null;
    if (open) {
      const {boxes, edges} = this.steps(index, key);
      inner = {boxes, edges, ...arrange(boxes, edges)};
      w = Math.max(own, inner.w + 2 * PAD);
      h = HEAD + inner.h;
      at = (w - inner.w) / 2;
      axis = at + inner.axis;
    }
    const draw = (place) => {
      const group = add(place, "g", {
        class: ["module", module.mark && kindOf(module.mark), open && "open"].filter(Boolean).join(" "),
        role: "treeitem", tabindex: -1, "data-key": key, "data-index": index, "data-path": module.path,
        "aria-label": [title, module.class, under, ...signs].join(", "),
        ...(opens && {"aria-expanded": open}),
      });
      add(group, "rect", {width: w, height: h, rx: 7});
      const x = PAD + indent;
      if (opens) add(group, "path", {class: "opens", d: open ? "M14,13l8,0l-4,6z" : "M15,11l6,4l-6,4z"});
      add(group, "text", {x, y: 20, class: "name"}, title);
      add(group, "text", {x: x + nameWidth + 8, y: 20, class: "class"}, module.class);
      signs.forEach((text, number) => {
        const sign = add(group, "g", {class: `sign ${kindOf(text[0])}`, transform: `translate(${PAD + places[number]},7)`});
        add(sign, "rect", {width: this.width(text, 11.5, 600) + 12, height: 18, rx: 9});
        add(sign, "text", {x: 6, y: 13}, text);
      });
      if (part) add(group, "text", {x: w - PAD, y: 20, class: "part", "text-anchor": "end"}, part);
      add(group, "text", {x, y: 37, class: "under"}, under);
      if (inner) this.fill(add(group, "g", {transform: `translate(${at},${HEAD})`, role: "group"}), inner);
    };
    return {w, h, axis, draw};
  }

  // Where a line leaves a module it goes on outside, and has no arrow yet.
  fill(group, {boxes, edges, places, lines}, last = false) {
    lines.forEach((line, number) => {
      const arrow = last || edges[number][1] !== OUTPUT;
      add(group, "path", {class: "line", d: line, ...(arrow && {"marker-end": "url(#arrow)"})});
    });
    boxes.forEach((box, number) => {
      const {x, y} = places[number];
      box.draw(add(group, "g", {transform: `translate(${round(x)},${round(y)})`, ...(box.idle && {class: "idle"})}));
    });
  }

  draw() {
    this.svg.replaceChildren();
    const marker = add(add(this.svg, "defs"), "marker",
      {id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto"});
    add(marker, "path", {d: "M0,0.5L8,4L0,7.5z", class: "tip"});
    const {boxes, edges} = this.steps(0, "");
    const ends = [this.sign(`input ${shapeText(this.inputShape)}`), this.sign(`output ${shapeText(this.modules[0].shape)}`.trim())];
    const all = arrange(boxes, edges, {input: ends[0], output: ends[1]});
    const group = add(this.svg, "g", {transform: "translate(12,12)", role: "group"});
    this.fill(group, {boxes, edges, ...all}, true);
    [all.ends.input, all.ends.output].forEach(({x, y}, number) => {
      ends[number].draw(add(group, "g", {transform: `translate(${round(x)},${round(y)})`}));
    });
    this.size = {w: Math.ceil(all.w) + 24, h: Math.ceil(all.h) + 24};
    this.svg.setAttribute("viewBox", `0 0 ${this.size.w} ${this.size.h}`);
    this.resize();
    const items = this.items();
    const current = items.find((item) => item.dataset.key === this.current) ?? items[0];
    current?.setAttribute("tabindex", 0);
    if (this.current !== null) this.mark(current);
  }

  // Again, with the current module where it was on the screen.
  redraw() {
    const before = this.item()?.getBoundingClientRect();
    const focused = this.svg.contains(document.activeElement);
    this.draw();
    const item = this.item(), after = item?.getBoundingClientRect();
    if (before && after) this.frame.scrollBy(after.left - before.left, after.top - before.top);
    if (focused) item?.focus({preventScroll: true});
  }

  items() { return [...this.svg.querySelectorAll(".module")]; }

  item() { return this.items().find((item) => item.dataset.key === this.current); }

  mark(item) {
    this.svg.querySelectorAll(".selected").forEach((other) => other.classList.remove("selected"));
    item?.classList.add("selected");
  }

  go(item, {focus = true, tell = true} = {}) {
    if (!item) return;
    this.item()?.setAttribute("tabindex", -1);
    this.svg.querySelectorAll('[tabindex="0"]').forEach((other) => other.setAttribute("tabindex", -1));
    item.setAttribute("tabindex", 0);
    this.current = item.dataset.key;
    this.mark(item);
    if (focus) item.focus({preventScroll: true});
    this.bring(item);
    if (tell) this.select(Number(item.dataset.index));
  }

  bring(item) {
    const box = item.firstChild.getBoundingClientRect(), frame = this.frame.getBoundingClientRect();
    const height = Math.min(box.height, 60);
    if (box.top < frame.top || box.top + height > frame.bottom) {
      this.frame.scrollTop += box.top - frame.top - (frame.height - height) / 2;
    }
    if (box.left < frame.left || box.left + Math.min(box.width, frame.width) > frame.right + 1) {
      this.frame.scrollLeft += box.left - frame.left - Math.max(0, (frame.width - box.width) / 2);
    }
  }

  // Shows a module that was chosen elsewhere; the outermost that is drawn where it has no box of its own.
  reveal(index) {
    this.openTo(index);
    this.draw();
    let item;
    for (let at = index; at !== undefined && !item; at = this.parent[at]) item = this.svg.querySelector(`.module[data-index="${at}"]`);
    if (item) this.go(item, {focus: false, tell: false});
  }

  click(event) {
    const item = event.target.closest(".module");
    if (!item || this.dragged) return;
    this.go(item);
    this.toggle(Number(item.dataset.index));
  }

  key(event) {
    const item = event.target.closest(".module");
    if (!item || event.ctrlKey || event.metaKey || event.altKey) return;
    const items = this.items(), at = items.indexOf(item), index = Number(item.dataset.index);
    const opens = this.modules[index].children.length > 0, open = opens && this.opened.has(index);
    const actions = {
      ArrowDown: () => this.go(items[at + 1]),
      ArrowUp: () => this.go(items[at - 1]),
      Home: () => this.go(items[0]),
      End: () => this.go(items.at(-1)),
      ArrowRight: () => (opens && !open ? this.toggle(index, true) : this.go(item.querySelector(".module"))),
      ArrowLeft: () => (open ? this.toggle(index, false) : this.go(item.parentElement.closest(".module"))),
      Enter: () => this.toggle(index),
      " ": () => this.toggle(index),
      "+": () => this.scale(1.25),
      "=": () => this.scale(1.25),
      "-": () => this.scale(0.8),
      0: () => this.fit(),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    this.current = item.dataset.key;
    actions[event.key]();
  }

  resize() {
    this.svg.setAttribute("width", this.size.w * this.zoom);
    this.svg.setAttribute("height", this.size.h * this.zoom);
  }

  // By a factor, around a point of the frame, which is its middle.
  scale(factor, x = this.frame.clientWidth / 2, y = this.frame.clientHeight / 2) {
    const before = this.zoom;
    this.zoom = Math.min(4, Math.max(0.1, before * factor));
    const ratio = this.zoom / before, {scrollLeft, scrollTop} = this.frame;
    this.resize();
    this.frame.scrollLeft = (scrollLeft + x) * ratio - x;
    this.frame.scrollTop = (scrollTop + y) * ratio - y;
  }

  fit() {
    this.scale(Math.min(1, this.frame.clientWidth / this.size.w) / this.zoom);
  }

  wheel(event) {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const frame = this.frame.getBoundingClientRect();
    this.scale(Math.exp(-Math.max(-50, Math.min(50, event.deltaY)) / 150), event.clientX - frame.left, event.clientY - frame.top);
  }

  // With a mouse; fingers scroll by themselves.
  drag() {
    let from = null;
    this.frame.addEventListener("pointerdown", (event) => {
      this.dragged = false;
      if (event.pointerType !== "mouse" || event.button !== 0) return;
      from = {x: event.clientX, y: event.clientY, left: this.frame.scrollLeft, top: this.frame.scrollTop};
    });
    window.addEventListener("pointermove", (event) => {
      if (!from) return;
      if (Math.hypot(event.clientX - from.x, event.clientY - from.y) > 4) this.dragged = true;
      if (this.dragged) this.frame.scrollTo(from.left + from.x - event.clientX, from.top + from.y - event.clientY);
    });
    window.addEventListener("pointerup", () => { from = null; });
  }

  width(text, size, weight = 400) {
    this.pen.font = `${weight} ${size}px ${FONT}`;
    return this.pen.measureText(text).width;
  }
}

const kindOf = (mark) => ({"+": "new", "-": "gone", "~": "other"})[mark];

function add(parent, name, attributes = {}, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return parent.appendChild(element);
}
