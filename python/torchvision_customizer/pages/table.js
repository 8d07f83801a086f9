// A table that is sorted by its headings, filtered by words, and summed up below.

class Table {
  // columns: [{key, title, number, value(row), cell(td, row)}], of which value sorts and cell fills; rows: values of any kind;
  // text(row): what is filtered; sum(rows): {text, value} by key, for below; select(row): called when a row is chosen.
  constructor(place, caption, columns, rows, {text, sum, select}) {
    Object.assign(this, {place, caption, columns, rows, text, sum, select});
    this.sorted = null;
    this.kept = rows;
    this.texts = new Map(rows.map((row) => [row, text(row).toLowerCase()]));
    this.build();
  }

  build() {
    this.table = element("table");
    element("caption", {class: "hidden"}, this.caption, this.table);
    const head = element("tr", {}, "", element("thead", {}, "", this.table));
    for (const column of this.columns) {
      const cell = element("th", {scope: "col", class: column.number ? "number" : "", "data-key": column.key}, "", head);
      const button = element("button", {title: `Sort by ${column.title}`}, column.title, cell);
      element("span", {class: "way", "aria-hidden": "true"}, "", button);
      button.addEventListener("click", () => this.sort(column));
    }
    this.body = element("tbody", {}, "", this.table);
    this.foot = element("tr", {}, "", element("tfoot", {}, "", this.table));
    this.lines = new Map();
    for (const row of this.rows) this.lines.set(row, this.line(row));
    this.body.addEventListener("click", (event) => this.choose(event.target.closest("tr")));
    this.body.addEventListener("keydown", (event) => this.key(event));
    this.place.replaceChildren(this.table);
    this.fill();
  }

  line(row) {
    const line = element("tr", {tabindex: -1});
    for (const column of this.columns) {
      const cell = element(column === this.columns[0] ? "th" : "td", {class: `${column.number ? "number" : ""} ${column.key}`}, "", line);
      if (column === this.columns[0]) cell.scope = "row";
      column.cell(cell, row);
    }
    return line;
  }

  // Numbers from the largest, texts from A; the other way round; and as they were.
  sort(column) {
    const first = column.number ? -1 : 1;
    if (this.sorted?.column !== column) this.sorted = {column, way: first};
    else this.sorted = this.sorted.way === first ? {column, way: -first} : null;
    this.fill();
  }

  filter(words, keeps) {
    const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
    this.kept = this.rows.filter((row) => keeps(row) && wanted.every((word) => this.texts.get(row).includes(word)));
    this.fill();
  }

  fill() {
    const rows = this.kept.slice();
    if (this.sorted) {
      const {column: {value, number}, way} = this.sorted;
      // What has no value is last, either way.
      rows.sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === null || y === null) return (x === null) - (y === null);
        return way * (number ? x - y : x.localeCompare(y, "en", {numeric: true}));
      });
    }
    this.columns.forEach((column, number) => {
      const head = this.table.tHead.rows[0].cells[number], way = this.sorted?.column === column ? this.sorted.way : 0;
      head.setAttribute("aria-sort", ["descending", "none", "ascending"][way + 1]);
      head.querySelector(".way").textContent = ["↓", "", "↑"][way + 1];
    });
    const lines = rows.map((row) => this.lines.get(row));
    this.body.replaceChildren(...lines);
    lines.forEach((line, number) => line.setAttribute("tabindex", number ? -1 : 0));
    const sums = this.sum(this.kept);
    this.foot.replaceChildren();
    for (const column of this.columns) {
      const {text = "", value} = sums[column.key] ?? {};
      element("td", {class: `${column.number ? "number" : ""} ${column.key}`, ...(value !== undefined && {"data-value": value})}, text, this.foot);
    }
  }

  choose(line) {
    if (!line) return;
    this.mark(line);
    for (const [row, of] of this.lines) if (of === line) this.select(row);
  }

  show(row) {
    const line = this.lines.get(row);
    if (!line) return;
    this.mark(line);
    if (!line.isConnected) return;
    const box = line.getBoundingClientRect(), frame = this.place.getBoundingClientRect();
    const head = this.table.tHead.offsetHeight, foot = this.table.tFoot.offsetHeight;
    if (box.top < frame.top + head || box.bottom > frame.bottom - foot) {
      this.place.scrollTop += box.top - frame.top - (frame.height - box.height) / 2;
    }
  }

  mark(line) {
    for (const other of this.body.querySelectorAll('.selected, [tabindex="0"]')) {
      other.classList.remove("selected");
      other.setAttribute("tabindex", -1);
    }
    line.classList.add("selected");
    line.setAttribute("tabindex", 0);
  }

  key(event) {
    const line = event.target.closest("tr");
    const to = {ArrowDown: line.nextSibling, ArrowUp: line.previousSibling, Home: this.body.firstChild, End: this.body.lastChild}[event.key];
    if (to) {
      this.mark(to);
      to.focus({preventScroll: true});
      to.scrollIntoView({block: "nearest"});
    } else if (event.key === "Enter" || event.key === " ") {
      this.choose(line);
    } else {
      return;
    }
    event.preventDefault();
  }
}

function element(name, attributes = {}, text = "", parent = null) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return parent ? parent.appendChild(made) : made;
}
