"use strict";
// Where the steps of a module go: in rows by how far they are from its input, with a lane for what passes rows by.

const INPUT = -1, OUTPUT = -2;
const ROW_GAP = 22, COLUMN_GAP = 16, LANE = 10;

// boxes: [{w, h, axis}] in an order in which they can run; axis is where lines come in and leave, from the left, by default in
// the middle. edges: pairs of indices, INPUT and OUTPUT; ends: sizes of these two.
// Returns {w, h, axis, places: [{x, y}], ends: {input, output}, lines: [path]}; x and y are of left upper corners.
function arrange(boxes, edges, ends = {input: {w: 0, h: 0}, output: {w: 0, h: 0}}) {
  const count = boxes.length, input = count, output = count + 1;
  const cells = [...boxes, ends.input, ends.output].map(({w, h, axis = w / 2}) => ({h, l: axis, r: w - axis, lane: false}));
  const links = edges.map(([from, to]) => [from === INPUT ? input : from, to === OUTPUT ? output : to]);
  const takers = cells.map(() => []), givers = cells.map(() => []);
  for (const [from, to] of links) { takers[from].push(to); givers[to].push(from); }

  rank(cells, takers, givers, input, output);
  const rows = [];
  cells.forEach((cell, index) => (rows[cell.row] ??= []).push(index));
  const hops = cells.map(() => []);       // to cells of the next row
  const routes = links.map(() => []);     // the cells of each link
  cells.slice().forEach((cell, from) => {
    const far = Math.max(...takers[from].map((to) => cells[to].row));
    const lane = [from];
    for (let row = cell.row + 1; row < far; row++) {
      lane.push(cells.push({l: LANE / 2, r: LANE / 2, h: 0, row, lane: true}) - 1);
      hops.push([]);
      rows[row].push(cells.length - 1);
      hops[lane.at(-2)].push(lane.at(-1));
    }
    links.forEach(([source, to], link) => {
      if (source !== from) return;
      const last = lane[cells[to].row - cell.row - 1];
      hops[last].push(to);
      routes[link] = [...lane.slice(0, cells[to].row - cell.row), to];
    });
  });
  place(cells, hops, rows.length, input);

  let y = 0;
  for (const row of rows) {
    const h = Math.max(...row.map((index) => cells[index].h));
    for (const index of row) Object.assign(cells[index], {top: y, bottom: y + h, y: y + (h - cells[index].h) / 2});
    y += h + ROW_GAP;
  }
  const left = Math.min(...cells.map(({x, l}) => x - l));
  for (const cell of cells) cell.x -= left;
  const corner = ({x, y, l}) => ({x: x - l, y});
  return {
    w: Math.max(...cells.map(({x, r}) => x + r)),
    h: y - ROW_GAP,
    axis: cells[input].x,
    places: cells.slice(0, count).map(corner),
    ends: {input: corner(cells[input]), output: corner(cells[output])},
    lines: routes.map((route) => trace(route.map((index) => cells[index]))),
  };
}

// A step is one row below the last that it takes from. What takes nothing, a trained scale, is just above who takes it; and
// what has no part in it is below everything.
function rank(cells, takers, givers, input, output) {
  cells[input].row = 0;
  for (let index = 0; index < input; index++) {
    cells[index].row = 1 + Math.max(0, ...givers[index].map((from) => cells[from].row));
  }
  for (let index = input - 1; index >= 0; index--) {
    if (!givers[index].length && takers[index].length) {
      cells[index].row = Math.max(1, Math.min(...takers[index].map((to) => cells[to].row ?? Infinity)) - 1);
      if (!Number.isFinite(cells[index].row)) cells[index].row = 1;
    }
  }
  const idle = (index) => !givers[index].length && !takers[index].length;
  const steps = [...Array(input).keys()];
  cells[output].row = 1 + Math.max(0, ...steps.filter((index) => !idle(index)).map((index) => cells[index].row));
  // One to a row, as nothing says which comes first.
  let row = cells[output].row;
  for (const index of steps.filter(idle)) cells[index].row = ++row;
}

// Each chain of steps and lanes is a straight column: the longest from the input in the middle, the others beside it, as near
// as what is there already lets them.
function place(cells, hops, rowCount, input) {
  const worth = cells.map((cell) => (cell.lane ? 0.001 : 1));
  const free = cells.map(() => true);
  const byRow = [...cells.keys()].sort((a, b) => cells[b].row - cells[a].row);
  const edges = {right: Array(rowCount).fill(-Infinity), left: Array(rowCount).fill(-Infinity)};
  const chains = [];
  for (let start = input; start !== undefined;) {
    const chain = [];
    const best = chainsFrom(byRow, hops, free, worth);
    if (chains.length) start = byRow.reduce((a, b) => (free[b] && (a === undefined || best[b].worth >= best[a].worth) ? b : a), undefined);
    for (let at = start; at !== undefined; at = best[at].next) { chain.push(at); free[at] = false; }
    if (!chain.length) break;
    chains.push(chain);
  }
  const [middle, ...others] = chains;
  const lanes = (chain) => chain.every((index) => cells[index].lane);
  others.sort((a, b) => lanes(a) - lanes(b) || a.length - b.length);
  for (const chain of [middle, ...others]) {
    const column = chain.map((index) => cells[index]);
    const beside = (edge, side) => COLUMN_GAP + Math.max(...column.map((cell) => edge[cell.row])) + Math.max(...column.map((cell) => cell[side]));
    const right = beside(edges.right, "l"), left = beside(edges.left, "r");
    const x = right === -Infinity ? 0 : right <= left ? right : -left;
    for (const cell of column) {
      cell.x = x;
      edges.right[cell.row] = Math.max(edges.right[cell.row], x + cell.r);
      edges.left[cell.row] = Math.max(edges.left[cell.row], cell.l - x);
    }
  }
}

// For each free cell the chain below it that is worth most.
function chainsFrom(byRow, hops, free, worth) {
  const best = [];
  for (const index of byRow) {
    best[index] = {worth: worth[index], next: undefined};
    for (const to of hops[index]) {
      if (free[to] && worth[index] + best[to].worth > best[index].worth) best[index] = {worth: worth[index] + best[to].worth, next: to};
    }
  }
  return best;
}

function trace(route) {
  const [first, ...others] = route;
  let {x, bottom: y} = first;
  let path = `M${round(x)},${round(first.y + first.h)}`;
  // No steps of length 0: the arrow at the end would not know where it points to.
  const down = (from, to) => { if (to - from > 0.05) path += `V${round(to)}`; };
  down(first.y + first.h, y);
  for (const cell of others) {
    const middle = round((y + cell.top) / 2);
    if (Math.abs(cell.x - x) < 0.5) down(y, cell.top);
    else path += `C${round(x)},${middle} ${round(cell.x)},${middle} ${round(cell.x)},${round(cell.top)}`;
    down(cell.top, cell.lane ? cell.bottom : cell.y);
    ({x, bottom: y} = cell);
  }
  return path;
}

const round = (value) => Math.round(value * 10) / 10;
