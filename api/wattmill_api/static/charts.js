// Draws charts out of the tables below them: what is drawn is what is written. Without this file the tables remain.
const DEFAULT_COLOUR = "--accent";

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function number(cell) {
  return cell && cell.dataset.y !== undefined && cell.dataset.y !== "" ? Number(cell.dataset.y) : null;
}

// Columns of a table: x from the rows' heads, one array for each further column.
function columns(table) {
  const rows = [...table.tBodies[0].rows];
  const heads = [...table.tHead.rows[0].cells].slice(1);
  const xs = rows.map((row) => Number(row.cells[0].dataset.x));
  return { heads, data: [xs, ...heads.map((_, i) => rows.map((row) => number(row.cells[i + 1])))] };
}

function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const [scale, letter] = size >= 1e9 ? [1e9, "G"] : size >= 1e6 ? [1e6, "M"] : size >= 1e4 ? [1e3, "k"] : [1, ""];
  return `${Number((value / scale).toPrecision(3))}${letter ? "\u202f" + letter : ""}`;
}

// Hours and minutes, and the day where it begins.
function clock(plot, splits, _, __, step) {
  let before = "";
  return splits.map((seconds) => {
    const text = new Date(seconds * 1e3).toISOString();
    const [day, time] = [text.slice(5, 10), text.slice(11, 16)];
    const first = day !== before;
    before = day;
    if (step >= 86_400) return day;
    return first && (splits.length < 2 || time === "00:00") ? `${time}\n${day}` : time;
  });
}

function axes(timed, xLabel) {
  const stroke = colour("--soft");
  const grid = { stroke: colour("--faint"), width: 1 };
  const ticks = { stroke: colour("--line"), width: 1, size: 4 };
  const font = "12px system-ui, sans-serif";
  const x = { stroke, grid: { show: false }, ticks, font, ...(timed ? { values: clock, space: 64 } : { label: xLabel, labelSize: 18, labelFont: font }) };
  return [x, { stroke, grid, ticks, font, size: 58, values: (_, values) => values.map(short) }];
}

// The bands of a stack: each series holds the sum of itself and those before it; drawn from the top down.
function stacked(data) {
  const sums = data[0].map(() => 0);
  const tops = data.slice(1).map((values) =>
    values.map((value, i) => (value === null ? null : (sums[i] += value))),
  );
  return [data[0], ...tops.reverse()];
}

function series(kind, heads, data) {
  if (kind === "stack") {
    return [...heads].reverse().map((head, i) => ({
      label: head.dataset.label,
      stroke: colour(`--${head.dataset.label}`),
      fill: colour(`--${head.dataset.label}`),
      width: 1,
      points: { show: false },
      value: (_, __, ___, at) => short(at === null ? null : data[heads.length - i][at]),
    }));
  }
  return heads.map((head) => ({
    label: head.dataset.label,
    stroke: colour(head.dataset.colour || DEFAULT_COLOUR),
    width: head.dataset.dots === undefined ? 1.75 : 0,
    dash: head.dataset.dash === undefined ? undefined : [5, 4],
    paths: head.dataset.dots === undefined ? undefined : () => null,
    points: head.dataset.dots === undefined
      ? { show: data[0].length < 3, size: 5 }
      : { show: true, size: 5, fill: colour(head.dataset.colour || DEFAULT_COLOUR), width: 0 },
    spanGaps: kind === "xy",
    value: (_, value) => short(value),
  }));
}

// A span drawn over a chart's time is the page of that time.
function zoom(plot) {
  if (plot.select.width < 12) return;
  const [from, to] = [plot.select.left, plot.select.left + plot.select.width].map((at) => plot.posToVal(at, "x"));
  const address = new URL(location.href);
  const iso = (seconds) => new Date(Math.round(seconds / 60) * 60_000).toISOString().replace(/:\d\d\.\d+Z$/, "Z");
  address.searchParams.delete("range");
  address.searchParams.set("start", iso(from).replace(/T(\d\d:\d\d)Z$/, "T$1:00Z"));
  address.searchParams.set("end", iso(to).replace(/T(\d\d:\d\d)Z$/, "T$1:00Z"));
  location.assign(address);
}

// Marks a stretch of time, given by the figure: when a finding lasted.
function marked(figure) {
  const [from, to] = [Number(figure.dataset.from), Number(figure.dataset.to)];
  return (plot) => {
    if (!from) return;
    const [left, right] = [plot.valToPos(from, "x", true), plot.valToPos(to, "x", true)];
    plot.ctx.save();
    plot.ctx.globalAlpha = 0.16;
    plot.ctx.fillStyle = colour("--idle-loaded");
    plot.ctx.fillRect(left, plot.bbox.top, Math.max(1, right - left), plot.bbox.height);
    plot.ctx.restore();
  };
}

function draw(figure) {
  const place = figure.querySelector(".plot");
  const { heads, data } = columns(figure.querySelector("table"));
  if (data[0].length < 2) return;
  const kind = figure.dataset.kind;
  const timed = kind !== "xy";
  const shown = kind === "stack" ? stacked(data) : data;
  place.plot?.destroy();
  place.replaceChildren();
  place.plot = new uPlot(
    {
      width: place.clientWidth,
      height: place.clientHeight,
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1e3), "Etc/UTC"),
      scales: {
        x: timed ? { time: true } : { time: false, distr: 3, log: 2 },
        y: { range: (_, __, most) => [0, (most || 1) * 1.06] },
      },
      axes: axes(timed, figure.dataset.x),
      series: [timed ? { value: "{YYYY}-{MM}-{DD} {HH}:{mm} UTC" } : { label: figure.dataset.x, value: (_, v) => short(v) }, ...series(kind, heads, data)],
      legend: { show: false },
      cursor: { drag: { x: timed, y: false, setScale: false }, sync: timed ? { key: "time" } : undefined, points: { show: kind !== "stack" } },
      hooks: { setSelect: timed && figure.dataset.zoom !== undefined ? [zoom] : [], drawClear: [marked(figure)], setCursor: [(plot) => say(figure, plot, heads, data)] },
    },
    shown,
    place,
  );
}

// What lies under the pointer, in words.
function say(figure, plot, heads, data) {
  const caption = figure.querySelector(".under");
  if (!caption) return;
  const at = plot.cursor.idx;
  if (at === null || at === undefined || plot.cursor.left < 0) {
    caption.textContent = "";
    return;
  }
  const table = figure.querySelector("table");
  const cells = [...table.tBodies[0].rows[at].cells].map((cell) => cell.textContent.trim());
  caption.textContent = [cells[0], ...heads.map((head, i) => `${head.dataset.label} ${cells[i + 1]}`)].join(" · ");
}

export function drawAll(root) {
  for (const figure of root.querySelectorAll("figure[data-kind]")) draw(figure);
}

function again() {
  drawAll(document);
}

let waiting = 0;
addEventListener("resize", () => {
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(again);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
