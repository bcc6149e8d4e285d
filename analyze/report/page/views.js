// The charts, each with its numbers: over all magnitudes, by layer, by position, by tokens, by format, between models.

const numberOr = (value, other) => (typeof value === "number" ? value : value === "inf" ? Infinity : other);
const valueText = (value) => (value === null ? "-" : sixFigures(value));
const largestOf = (rows, of) => rows.reduce((most, row) => (of(row) > of(most) ? row : most), rows[0]);
const sentence = (words) => `${words[0].toUpperCase()}${words.slice(1)}.`;
const positive = (rows) => rows.filter((row) => typeof row.value === "number" && row.value > 0);

async function fillSweep() {
  const rows = [];
  stores.forEach((store, i) => sweepOf(i).forEach((outliers, place) => rows.push({
    store: store.facts.label, magnitude: Number(asked.magnitudes[place]), outliers, chosen: place === state.magnitude,
  })));
  const words = stores.map((store, i) => `${store.facts.label}: ${sweepOf(i)[state.magnitude]}`).join("; ");
  await fillChart("sweep", rows, `Outliers against magnitude; at ${asked.magnitudes[state.magnitude]}: ${words}`,
    () => table("Outliers by magnitude", ["Magnitude", ...stores.map((store) => own(store.facts.label))],
      [true, ...stores.map(() => true)],
      asked.magnitudes.map((magnitude, place) => [magnitude, ...stores.map((_, i) => countText(sweepOf(i)[place]))])));
}

async function fillPhase() {
  const steps = stores[state.store].phase.layer_shares;
  const lattice = lattices[state.store];
  const above = 40n * BigInt(layerShare().numerator), below = BigInt(layerShare().denominator);
  const nearest = Math.min(19, Math.max(0, Number((above + below) / (2n * below)) - 1)); // of twentieths
  const counts = phaseCounts(lattice, state.positions);
  const rows = steps.flatMap((text, row) => asked.magnitudes.map((magnitude, place) => ({
    magnitude: Number(magnitude), share: parseInt(text, 10), outliers: counts[row][place],
    chosen: place === state.magnitude && row === nearest,
  })));
  const { label } = stores[state.store].facts;
  await fillChart("phase", rows, `Outliers of ${label} over magnitude and share of layers: ` +
    `from ${countText(Math.max(...counts.map((row) => row[0])))} to ${countText(counts.at(-1).at(-1))}`,
  () => table(`Outliers of ${label} by least share of layers and magnitude`, ["Layers", ...asked.magnitudes],
    [true, ...asked.magnitudes.map(() => true)], steps.map((text, row) => [text, ...counts[row].map(countText)])));
}

/** Outliers by layer share, in twentieths, and magnitude. */
function phaseCounts(lattice, share) {
  if (share === asked.position_share) return lattice.view.phase.outliers;
  return Array.from({ length: 20 }, (_, row) =>
    outliersByMagnitude(lattice, { numerator: row + 1, denominator: 20 }, share));
}

async function fillCurves() {
  const { curves } = stores[state.store];
  if (isAbsent(curves)) return at("curves").replaceChildren(absent(curves));
  const [select, choice] = choiceOf("tensor", "Tensor", curves.tensors);
  at("curves").replaceChildren(choice,
    figure("magnitudes", sentence(curves.formulas["top-values"])),
    make("div", { class: "halves" }, figure("kurtosis", `${curves.formulas.kurtosis}.`),
      figure("max-median", `${curves.formulas["max-median"]}.`)),
    ...curves.left_out.map((words) => make("p", { class: "quiet" }, own(words))));
  const show = () => {
    const i = Number(select.value);
    const series = [["Top 1", curves.top[0][i]], ["Top 2", curves.top[1][i]], ["Top 3", curves.top[2][i]],
      ["Median", curves.median[i]]];
    const rows = series.flatMap(([name, values]) => values.map((value, j) => ({ series: name, layer: curves.layers[j], value })));
    const top = largestOf(rows, (row) => numberOr(row.value, 0));
    return fillChart("magnitudes", positive(rows), `Largest and median magnitudes of ${curves.tensors[i]} by layer: ` +
      `the largest, ${valueText(top.value)}, in layer ${top.layer}`,
    () => table(`Magnitudes of ${curves.tensors[i]}`, ["Layer", ...series.map(([name]) => name)], [true, true, true, true, true],
      curves.layers.map((layer, j) => [String(layer), ...series.map(([, values]) => valueText(values[j]))])));
  };
  select.addEventListener("change", show);
  await show();
  for (const [name, words, values] of [["kurtosis", "Kurtosis of feature RMS", curves.kurtosis],
    ["max-median", "Max-median ratio", curves.max_median]]) {
    const rows = curves.tensors.flatMap((tensor, i) => values[i].map((value, j) => ({ tensor, layer: curves.layers[j], value })));
    const top = largestOf(rows, (row) => numberOr(row.value, 0));
    await fillChart(name, positive(rows), `${words} by layer: the largest, ${valueText(top.value)}, of ${top.tensor} in layer ` +
      `${top.layer}`, () => table(`${words} by layer`, ["Layer", ...curves.tensors], [true, ...curves.tensors.map(() => true)],
      curves.layers.map((layer, j) => [String(layer), ...values.map((row) => valueText(row[j]))])));
  }
}

async function fillProfile() {
  const { positions } = stores[state.store];
  if (isAbsent(positions)) return at("position-profile").replaceChildren(absent(positions));
  const magnitude = asked.magnitudes[state.magnitude];
  const place = positions.magnitudes.indexOf(magnitude);
  if (place < 0) {
    return at("position-profile").replaceChildren(absent({ kind: "Not in this store", absent: `Its slices are zero below its floor, above ${magnitude}.` }));
  }
  if (!document.querySelector('[data-chart="profile"]')) at("position-profile").replaceChildren(figure("profile", ""));
  at("profile-caption").textContent =
    `Hits |X| >= ${magnitude} per token, of ${countText(positions.values_per_token)} (layer, feature) values at each site.`;
  const rows = positions.sites.flatMap((site, s) => positions.bins.map((bin, i) => {
    const hits = positions.hits[s][place][i];
    return { site, bin, hits, rate: positions.tokens[i] ? hits / positions.tokens[i] : 0 };
  }));
  const top = largestOf(rows, (row) => row.rate);
  await fillChart("profile", rows, `Hits per token by position at magnitude ${magnitude}: the most, ${sixFigures(top.rate)}, ` +
    `at ${top.site}, positions ${top.bin}`, () => table(`Hits at magnitude ${magnitude} by position`,
    ["Positions", "Tokens", ...positions.sites], [false, true, ...positions.sites.map(() => true)],
    positions.bins.map((bin, i) => [bin, countText(positions.tokens[i]),
      ...positions.sites.map((_, s) => countText(positions.hits[s][place][i]))])));
}

async function fillGrowth() {
  const curves = stores.map((_, i) => growth(lattices[i], state.magnitude, layerShare(), state.positions));
  const rows = stores.flatMap((store, i) => curves[i].map((unique, n) => ({
    store: store.facts.label, tokens: page.tokens[i][n], unique })));
  const words = stores.map((store, i) => `${store.facts.label}: ${sixFigures(curves[i][0])} in one sequence, ` +
    `${sixFigures(curves[i].at(-1))} in all ${curves[i].length}`).join("; ");
  const places = Math.max(...curves.map((curve) => curve.length));
  const every = Math.max(1, Math.ceil(places / 20));
  await fillChart("growth", rows, `Unique features against tokens; ${words}`, () => table("Unique features by sequences",
    ["Sequences", ...stores.map((store) => own(store.facts.label))], [true, ...stores.map(() => true)],
    Array.from({ length: places }, (_, n) => n).filter((n) => (n + 1) % every === 0 || n === 0 || n + 1 === places)
      .map((n) => [countText(n + 1), ...curves.map((curve) => (n < curve.length ? sixFigures(curve[n]) : "-"))])));
}

async function fillQuantisation() {
  const { quantisation } = stores[state.store];
  if (isAbsent(quantisation)) return at("quantised").replaceChildren(absent(quantisation));
  const [select, choice] = choiceOf("site", "Site", quantisation.sites);
  at("quantised").replaceChildren(choice,
    figure("quantisation", "Signal to quantisation noise of each format and layer: more is better. Exact: nothing is lost."),
    ...quantisation.tables.flatMap((held) => [table(held.title, held.headings, held.right, held.cells),
      make("details", {}, make("summary", {}, "What is what"),
        make("ul", { class: "notes" }, held.notes.map((note) => make("li", {}, own(note)))))]));
  const show = () => {
    const site = Number(select.value), of = quantisation.sqnr_db;
    const rows = withExact(quantisation.formats.flatMap((format, f) => quantisation.layers.map((layer, j) => ({
      format, layer, sqnr: of[f][site][j] }))));
    const worst = rows.length ? largestOf(rows, (row) => -row.sqnr) : null;
    return fillChart("quantisation", rows, `SQNR by format and layer at ${quantisation.sites[site]}` +
      `${worst ? `: the least, ${worst.ratio} dB, of ${worst.format} in layer ${worst.layer}` : ""}`,
    () => table(`SQNR in dB at ${quantisation.sites[site]}`, ["Layer", ...quantisation.formats],
      [true, ...quantisation.formats.map(() => true)], quantisation.layers.map((layer, j) => [String(layer),
        ...quantisation.formats.map((_, f) => (typeof of[f][site][j] === "number" ? fixed(of[f][site][j], 1)
          : of[f][site][j] === "inf" ? "exact" : "-"))])));
  };
  select.addEventListener("change", show);
  await show();
}

/** Places for what is seen between models. */
function placeEmergence() {
  if (stores.length === 1) return;
  const { emergence } = overview;
  if (isAbsent(emergence)) {
    at("emerging").replaceChildren(make("p", { class: "absent" }, emergence.absent));
    return;
  }
  const perplexity = emergence.names.indexOf("perplexity");
  at("emerging").replaceChildren(legend(stores),
    make("div", { class: "halves" },
      figure("emergence-parameters", "Outliers against parameters, at the magnitude and shares chosen above."),
      emergence.rows.some((row) => typeof row[perplexity] === "number")
        ? figure("emergence-perplexity", "The same against perplexity, smaller to the right.") : null),
    make("div", { id: "emergence-table" }),
    make("p", { class: "quiet" }, "No line is fitted: a trend is a statement about models of one family. Largest feature: that " +
      "of the first unit as the command lists them. Median |X|: over the positions that it hits, of its largest in any " +
      "cell; held of the features looked at closely."));
}

/** A row for each model with what it is and what it answers at the place chosen. */
function emergenceRows() {
  const { emergence } = overview;
  const held = new Map(emergence.rows.map((row) => [row[emergence.names.indexOf("run")],
    Object.fromEntries(emergence.names.map((name, i) => [name, row[i]]))]));
  return stores.map((store, i) => {
    const { label } = store.facts, { family, total_parameters, perplexity } = held.get(label);
    const first = listedUnits(answers[i].listed)[0];
    const view = first && store.features.find((one) => one.feature === first.feature);
    return { store: label, family, total_parameters, perplexity, outliers: answers[i].outliers, cells: answers[i].cells,
      largest: first ? String(first.feature) : "-",
      critical: first && !asked.by_count ? sixFigures(magnitudeOf(first.critical, store.coverage.encoding)) : "-",
      median: view ? valueText(view.median_magnitude[state.magnitude]) : "-" };
  });
}

function fillEmergence() {
  if (!at("emergence-table")) return;
  at("emergence-table").replaceChildren(table(`Each model's largest feature at magnitude ${asked.magnitudes[state.magnitude]}`,
    ["Model", "Family", "Outliers", "Mean L%", "Mean S%", "Largest feature", "Critical magnitude", "Median |X|"],
    [false, false, true, true, true, true, true, true],
    emergenceRows().map((row, i) => [modelName(i), own(row.family), row.cells.outliers, row.cells.layers, row.cells.positions,
      row.largest, row.critical, row.median]), { id: "emergence-rows" }));
}

async function drawEmergence() {
  if (!at("emergence-table")) return;
  const rows = emergenceRows().map(({ cells, ...row }) => row);
  for (const [name, axis, word] of [["emergence-parameters", "total_parameters", "parameters"],
    ["emergence-perplexity", "perplexity", "perplexity"]]) {
    const known = rows.filter((row) => typeof row[axis] === "number" && (row[axis] > 0));
    const words = known.map((row) => `${row.store}: ${sixFigures(row[axis])}, ${countText(row.outliers)} outliers`).join("; ");
    await fillChart(name, known, `Outliers against ${word}; ${words}`, () => table(`Outliers against ${word}`,
      ["Model", `${word[0].toUpperCase()}${word.slice(1)}`, "Outliers"], [false, true, true],
      known.map((row) => [own(row.store), word === "parameters" ? countText(row[axis]) : sixFigures(row[axis]),
        countText(row.outliers)])));
  }
}
