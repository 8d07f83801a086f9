"use strict";
// Where the steps of a module go: in rows by how far they are from its input, with a lane for what passes rows by.

const INPUT = -1, OUTPUT = -2;
const ROW_GAP = 22, COLUMN_GAP = 16, LANE = 10;

// boxes: [{w, h}] in an order in which they can run; edges: pairs of indices, INPUT and OUTPUT; ends: sizes of these two.
// Returns {w, h, places: [{x, y}], ends: {input, output}, lines: [path]}; x and y are of left upper corners.
function arrange(boxes, edges, ends = {input: {w: 0, h: 0}, output: {w: 0, h: 0}}) {
  const count = boxes.length, input = count, output = count + 1;
  const cells = [...boxes, ends.input, ends.output].map(({w, h}) => ({w, h, lane: false}));
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
      lane.push(cells.push({w: LANE, h: 0, row, lane: true}) - 1);
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
  const near = cells.map(() => []);
  hops.forEach((targets, from) => targets.forEach((to) => {
    // What is straight is easy to follow: the chain of steps first, and then the lanes.
    const weight = cells[from].lane === cells[to].lane ? 8 : 1;
    near[from].push([to, weight]);
    near[to].push([from, weight]);
  }));
  order(rows, near);
  spread(rows, cells, near);

  let y = 0;
  for (const row of rows) {
    const h = Math.max(...row.map((index) => cells[index].h));
    for (const index of row) Object.assign(cells[index], {top: y, bottom: y + h, y: y + (h - cells[index].h) / 2});
    y += h + ROW_GAP;
  }
  const left = Math.min(...cells.map(({x, w}) => x - w / 2));
  for (const cell of cells) cell.x -= left;
  const corner = ({x, y, w}) => ({x: x - w / 2, y});
  return {
    w: Math.max(...cells.map(({x, w}) => x + w / 2)),
    h: y - ROW_GAP,
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

function order(rows, near) {
  const place = [];
  const number = (row) => row.forEach((index, position) => { place[index] = position / row.length; });
  rows.forEach(number);
  for (let sweep = 0; sweep < 4; sweep++) {
    for (const row of sweep % 2 ? rows.toReversed() : rows) {
      const mean = new Map(row.map((index) => [index, average(near[index], (other) => place[other]) ?? place[index]]));
      row.sort((a, b) => mean.get(a) - mean.get(b) || a - b);
      number(row);
    }
  }
}

function spread(rows, cells, near) {
  const apart = (a, b) => (cells[a].w + cells[b].w) / 2 + COLUMN_GAP;
  for (const row of rows) {
    const total = row.reduce((sum, index) => sum + cells[index].w + COLUMN_GAP, -COLUMN_GAP);
    let x = -total / 2;
    for (const index of row) { cells[index].x = x + cells[index].w / 2; x += cells[index].w + COLUMN_GAP; }
  }
  for (let sweep = 0; sweep < 12; sweep++) {
    for (const row of sweep % 2 ? rows.toReversed() : rows) {
      const wanted = row.map((index) => average(near[index], (other) => cells[other].x) ?? cells[index].x);
      const right = wanted.slice(), left = wanted.slice();
      for (let i = 1; i < row.length; i++) right[i] = Math.max(right[i], right[i - 1] + apart(row[i - 1], row[i]));
      for (let i = row.length - 2; i >= 0; i--) left[i] = Math.min(left[i], left[i + 1] - apart(row[i], row[i + 1]));
      row.forEach((index, i) => { cells[index].x = (right[i] + left[i]) / 2; });
    }
  }
}

function average(pairs, value) {
  const weights = pairs.reduce((sum, [, weight]) => sum + weight, 0);
  return weights ? pairs.reduce((sum, [other, weight]) => sum + weight * value(other), 0) / weights : undefined;
}

function trace(route) {
  const [first, ...others] = route;
  let {x, bottom: y} = first;
  let path = `M${round(x)},${round(first.y + first.h)}V${round(y)}`;
  for (const cell of others) {
    const middle = round((y + cell.top) / 2);
    path += Math.abs(cell.x - x) < 0.5
      ? `V${round(cell.top)}`
      : `C${round(x)},${middle} ${round(cell.x)},${middle} ${round(cell.x)},${round(cell.top)}`;
    ({x, bottom: y} = cell);
    path += `V${round(cell.lane ? cell.bottom : cell.y)}`;
  }
  return path;
}

const round = (value) => Math.round(value * 10) / 10;
