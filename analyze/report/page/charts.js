// Charts: specifications from the page, drawn as SVG by Vega without evaluating code, and filled anew as the page moves.

const drawn = new Map();

/** Colours and type that follow the page's own, light, dark or printed. */
function chartConfig() {
  const ink = "currentColor";
  return {
    background: null,
    font: "system-ui, sans-serif",
    view: { stroke: null },
    axis: {
      labelColor: ink, titleColor: ink, tickColor: ink, domainColor: ink, gridColor: ink, gridOpacity: 0.13,
      domainOpacity: 0.45, tickOpacity: 0.45, labelFontSize: 12, titleFontSize: 12, titleFontWeight: 600, titlePadding: 8,
    },
    axisX: { grid: false },
    rule: { color: ink },
    legend: { labelColor: ink, titleColor: ink, labelFontSize: 12, titleFontSize: 12, titleFontWeight: 600, offset: 10,
      labelOverlap: "greedy", labelSeparation: 8 },
    range: { category: page.palette },
  };
}

/** How a model is drawn in every chart, by the channels of a chart; of more than eight colours come again, with other dashes
 * and every other time hollow points. */
const markOf = (index) => {
  const colour = page.palette[index % page.palette.length];
  const hollow = Math.floor(index / page.palette.length) % 2;
  return { color: colour, stroke: colour, fill: hollow ? "transparent" : colour, strokeDash: page.dashes[index % page.dashes.length] };
};

/** A specification in which each channel of the models has what each model is drawn with. */
function withMarks(part) {
  if (part === null || typeof part !== "object") return part;
  if (Array.isArray(part)) return part.map(withMarks);
  return Object.fromEntries(Object.entries(part).map(([name, held]) => [name, held && held.field === "store" && name in markOf(0)
    ? { ...held, scale: { domain: stores.map((store) => store.facts.label), range: stores.map((_, i) => markOf(i)[name]) } }
    : withMarks(held)]));
}

/** Fill the chart of that name, drawing it the first time; `words` describe it to who cannot see it, `numbers` makes a table. */
async function fillChart(name, rows, words, numbers) {
  const place = document.querySelector(`[data-chart="${name}"]`);
  if (!place) return;
  const details = document.querySelector(`[data-numbers="${name}"]`);
  details.numbers = numbers;
  fillNumbers(details);
  let held = drawn.get(name);
  if (held && (held.place !== place || !rows.length)) {
    held.ready.then((result) => result.finalize());
    drawn.delete(name);
    held = undefined;
  }
  if (!rows.length) { // a scale of nothing is infinite
    place.replaceChildren(make("p", { class: "quiet" }, "Nothing to draw: there is no value above 0."));
    return;
  }
  if (!held) {
    const spec = { ...withMarks(page.charts[name]), description: words, data: { name: "rows", values: rows } };
    const options = { mode: "vega-lite", renderer: "svg", actions: false, ast: true, config: chartConfig() };
    held = { place, ready: vegaEmbed(place, spec, options) };
    drawn.set(name, held);
    held.view = (await held.ready).view;
    return;
  }
  const { view } = await held.ready;
  await view.description(words).data("rows", rows).runAsync();
  const drawing = place.querySelector("svg [aria-label]");
  if (place.querySelector("svg")) place.querySelector("svg").parentElement.setAttribute("aria-label", words);
  if (drawing && drawing.getAttribute("aria-roledescription") === "visualization") drawing.setAttribute("aria-label", words);
}

/** Rows that have a ratio; where nothing is lost it is infinite: drawn as the best, with a word amid each run of layers. */
function withExact(rows) {
  const best = Math.max(0, ...rows.map((row) => (typeof row.sqnr === "number" ? row.sqnr : 0)));
  const exact = (row) => Boolean(row) && row.sqnr === "inf";
  const runOn = (row, next) => exact(row) && exact(next) && row.format === next.format;
  let first = 0;
  const words = new Map();
  rows.forEach((row, i) => {
    if (!exact(row)) return;
    if (!runOn(row, rows[i - 1])) first = i;
    if (!runOn(row, rows[i + 1])) words.set((first + i) >> 1, "exact");
  });
  return rows.map((row, i) => ({ ...row, sqnr: exact(row) ? best : row.sqnr, word: words.get(i) || null,
    ratio: exact(row) ? "exact" : typeof row.sqnr === "number" ? row.sqnr.toFixed(1) : null }))
    .filter((row) => row.ratio !== null);
}

const PAPER_WIDTH = 640; // pixels of CSS between the margins of A4 and Letter
const PAPER_HEIGHT = 0.6; // of a chart's height on the screen: two fit on a page with their words
const ROW_HEIGHT = 18; // of a chart with a row for each format

/** Draw all charts for paper, or for their places again: scaled to fit, their text would be too small. */
function resizeCharts(onPaper) {
  for (const [name, { place, view }] of drawn) {
    if (!view || !place.isConnected) continue;
    const { height } = page.charts[name];
    const least = name === "quantisation" ? ROW_HEIGHT * new Set(view.data("rows").map((row) => row.format)).size : 110;
    view.width(onPaper ? PAPER_WIDTH : place.clientWidth).height(onPaper ? Math.max(least, PAPER_HEIGHT * height) : height).run();
  }
}
