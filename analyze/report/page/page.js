// The page moves: what is chosen, and everything that follows from it.

const page = JSON.parse(document.getElementById("data").textContent);
const { overview } = page;
const { asked, stores } = overview;
const at = (id) => document.getElementById(id);
const state = { magnitude: asked.chosen, layers: asked.layer_share, positions: asked.position_share, store: 0, feature: null };
const choices = { magnitude: asked.magnitudes, layers: asked.layer_shares, positions: asked.position_shares };
const LISTED = 200; // positions are known of the first so many units, whatever is chosen (analyze/overviews/columns.py)
let lattices = [], draws = {};

const layerShare = () => asked.layer_shares[state.layers];
const positionShare = () => asked.position_shares[state.positions];
const isAsked = () => state.layers === asked.layer_share && state.positions === asked.position_share;
const sweeps = new Map();

/** Outliers of a store at every magnitude, at the shares chosen. */
function sweepOf(index) {
  const key = `${index} ${state.layers} ${state.positions}`;
  if (!sweeps.has(key)) {
    if (sweeps.size > 64) sweeps.clear();
    sweeps.set(key, outliersByMagnitude(lattices[index], layerShare(), state.positions));
  }
  return sweeps.get(key);
}

function answerOf(index) {
  const { facts } = stores[index];
  const known = isAsked() && page.intervals[index] ? page.intervals[index][state.magnitude] : null;
  return answerAt(lattices[index], state.magnitude, layerShare(), state.positions, draws[facts.sequences.length], known);
}

/** The definition at what is chosen: the command's sentence with its shares and magnitude replaced. */
function definitionWords() {
  const rule = asked.words
    .replace("the magnitude", asked.magnitudes[state.magnitude])
    .replace(`at least ${asked.layers} of`, `at least ${layerShare().text} of`)
    .replace(`at ${asked.positions} or more of`, `at ${positionShare().text} or more of`);
  return `${rule[0].toUpperCase()}${rule.slice(1)}.`;
}

function fillTable(answers) {
  const facts = ["Total", "Active", "Experts", "Top-k", "Routing"];
  const several = stores.length > 1 ? ["Perplexity", "Precision"] : [];
  const headings = ["Model", "Outliers", "Unique features", "Per sequence [95%]", "Mean L%", "Mean S%", ...facts, ...several];
  const right = headings.map((heading) => !["Model", "Routing", "Precision"].includes(heading));
  const rows = stores.map((store, i) => {
    const { cells } = answers[i];
    const words = store.facts.model_words;
    return [make("span", { class: "name" }, swatch(i), own(store.facts.label)),
      make("strong", {}, cells.outliers), cells.unique, cells.perSequence, cells.layers, cells.positions,
      ...[...facts, ...several].map((name) => own(words[name]))];
  });
  at("table").replaceChildren(table(`Outliers at magnitude ${asked.magnitudes[state.magnitude]}, layers ` +
    `${layerShare().text}, positions ${positionShare().text}`, headings, right, rows, { id: "counts" }));
  const without = isAsked() ? [] : stores.filter((_, i) => page.intervals[i]);
  if (without.length) {
    at("table").append(make("p", { class: "quiet" }, "No interval at other shares than those asked: ",
      own(without.map((store) => store.facts.label).join(", ")), `, of more than ${countText(page.most_drawn)} sequences.`));
  }
  at("words").textContent = definitionWords();
}

async function fillSweep() {
  const rows = [];
  stores.forEach((store, i) => sweepOf(i).forEach((outliers, place) => rows.push({
    store: store.facts.label, magnitude: Number(asked.magnitudes[place]), outliers, chosen: place === state.magnitude,
  })));
  at("sweep-table").replaceChildren(table("Outliers by magnitude",
    ["Magnitude", ...stores.map((store) => own(store.facts.label))], [true, ...stores.map(() => true)],
    asked.magnitudes.map((magnitude, place) => [magnitude, ...stores.map((_, i) => countText(sweepOf(i)[place]))])));
  const words = stores.map((store, i) => `${store.facts.label}: ${sweepOf(i)[state.magnitude]}`).join("; ");
  await fillChart("sweep", rows, `Outliers against magnitude; at ${asked.magnitudes[state.magnitude]}: ${words}`);
}

async function fillPhase() {
  const steps = stores[state.store].phase.layer_shares;
  const lattice = lattices[state.store];
  const share = layerShare().numerator / layerShare().denominator;
  const nearest = Math.min(19, Math.max(0, Math.round(share * 20) - 1));
  const counts = phaseCounts(lattice, state.positions);
  const rows = steps.flatMap((text, row) => asked.magnitudes.map((magnitude, place) => ({
    magnitude: Number(magnitude), share: parseInt(text, 10), outliers: counts[row][place],
    chosen: place === state.magnitude && row === nearest,
  })));
  await fillChart("phase", rows, `Outliers of ${stores[state.store].facts.label} over magnitude and share of layers`);
}

/** Outliers by layer share, in twentieths, and magnitude. */
function phaseCounts(lattice, share) {
  if (share === asked.position_share) return lattice.view.phase.outliers;
  return Array.from({ length: 20 }, (_, row) =>
    outliersByMagnitude(lattice, { numerator: row + 1, denominator: 20 }, share));
}

/** Units in the command's order and with critical magnitudes at the shares asked, else by peak: the first that are shown. */
function listedUnits(found) {
  const lattice = lattices[state.store];
  const { facts } = stores[state.store];
  const keyOf = (unit) => (unit.row === null ? unit.feature : unit.row * facts.features + unit.feature);
  const known = isAsked() && !asked.by_count;
  const rankOf = (unit) => (unit.listed ? unit.listed.rank : LISTED);
  return found.map((unit) => ({ ...unit, listed: known ? lattice.order.get(keyOf(unit)) : undefined }))
    .sort((a, b) => rankOf(a) - rankOf(b) || b.peak - a.peak || a.row - b.row || a.feature - b.feature)
    .slice(0, LISTED);
}

function fillList(answer) {
  const { facts, features } = stores[state.store];
  const { encoding } = stores[state.store].coverage;
  const shown = listedUnits(answer.listed);
  const pairs = shown.length > 0 && shown[0].row !== null;
  const looked = new Set(features.map((view) => view.feature));
  if (!looked.has(state.feature)) state.feature = features.length ? features[0].feature : null;
  const rows = shown.map((unit) => {
    const name = looked.has(unit.feature)
      ? make("button", { type: "button", class: "pick", "data-feature": unit.feature,
        "aria-pressed": String(unit.feature === state.feature), "aria-label": `Look at feature ${unit.feature}` },
      String(unit.feature))
      : String(unit.feature);
    const critical = unit.listed && unit.listed.critical !== null ? sixFigures(unit.listed.critical) : "-";
    return [name, ...(pairs ? [String(facts.sequences[unit.row])] : []),
      percentText((100 * unit.layers) / unit.layersTotal), percentText((100 * unit.positions) / unit.positionsTotal),
      sixFigures(magnitudeOf(unit.peak, encoding)), critical];
  });
  const what = pairs ? "pairs" : "features";
  const caption = shown.length
    ? `${shown.length < answer.outliers ? `The first ${countText(shown.length)} of ` : ""}${countText(answer.outliers)} ${what}, ` +
      `by ${isAsked() ? "critical magnitude" : "peak"}`
    : `No ${pairs ? "pair" : "feature"} counts here: choose a smaller magnitude or lesser shares`;
  const headings = ["Feature", ...(pairs ? ["Sequence"] : []), "L%", "S%", "Peak", "Critical magnitude"];
  at("list").replaceChildren(table(caption, headings, headings.map(() => true), rows, { id: "units" }));
  if (shown.length > 40) at("list").append(make("p", { class: "quiet paper" }, "The first 40 are printed."));
  if (!isAsked() && shown.length) {
    at("list").append(make("p", { class: "quiet" }, "Critical magnitudes are held for the shares that were asked for: " +
      `${asked.layers} of layers, ${asked.positions} of positions.`));
  }
  const others = features.filter((view) => !shown.some((unit) => unit.feature === view.feature));
  if (others.length) {
    at("list").append(make("p", { class: "quiet screen" }, "Also looked at: ", others.flatMap((view, i) => [i ? " " : "",
      make("button", { type: "button", class: "pick", "data-feature": view.feature,
        "aria-pressed": String(view.feature === state.feature), "aria-label": `Look at feature ${view.feature}` },
      String(view.feature))])));
  }
}

async function fillFeature() {
  const { facts, features } = stores[state.store];
  const view = features.find((one) => one.feature === state.feature);
  if (!view) {
    at("feature").replaceChildren(make("p", { class: "absent" }, "No feature of this store was looked at closely."));
    return;
  }
  const chosen = asked.magnitudes[asked.chosen];
  const critical = view.critical_magnitude === null ? "does not count at the magnitudes asked"
    : `critical magnitude ${sixFigures(view.critical_magnitude)}`;
  const parts = [
    make("h3", {}, `Feature ${view.feature}`),
    make("p", { class: "fact" }, `Peak ${sixFigures(view.peak)}, ${critical}.`),
    figure("cells", "The largest |X| in each layer and site, over all positions and sequences looked at."),
    figure("feature-positions", `Share of positions at which any cell reaches ${chosen}.`),
    table("Its largest values", ["Token", "Sequence", "Position", "|X|"], [false, true, true, true],
      view.positions.map((peak) => [tokenText(peak), String(peak.sequence), countText(peak.position), sixFigures(peak.peak)])),
  ];
  if (view.tokens.length) {
    parts.push(table(`Tokens most often hit at ${chosen}`, ["Token", "Hits", "Occurrences"], [false, true, true],
      view.tokens.map((token) => [tokenText(token), countText(token.hits), countText(token.occurrences)])));
  }
  parts.push(isAbsent(view.experts)
    ? make("p", { class: "absent" }, make("strong", {}, `Experts. ${view.experts.kind}. `), own(view.experts.absent))
    : table(`Experts whose tokens it is hit in most, at ${chosen} (ln_mlp)`, ["Layer", "Expert", "Hits", "Tokens given"],
      [true, true, true, true],
      view.experts.map((one) => [one.layer, one.expert, one.hits, one.tokens].map(countText))));
  at("feature").replaceChildren(...parts);
  await fillChart("cells", facts.sites.flatMap((site, i) => facts.layers.map((layer, j) => ({
    site, layer, peak: view.layer_peak[i][j] }))), `Peaks of feature ${view.feature} by layer and site`);
  await fillChart("feature-positions", view.position_bins.map((bin, i) => {
    const [hits, tokens] = view.position_hits[i];
    return { bin, hits, tokens, share: tokens ? hits / tokens : 0 };
  }), `Share of positions at which feature ${view.feature} reaches ${chosen}`);
}

const positive = (rows) => rows.filter((row) => typeof row.value === "number" && row.value > 0);

async function fillCurves() {
  const { curves } = stores[state.store];
  if (isAbsent(curves)) return at("curves").replaceChildren(absent(curves));
  const select = make("select", { id: "tensor" }, curves.tensors.map((tensor, i) => make("option", { value: i }, tensor)));
  at("curves").replaceChildren(
    make("p", { class: "choice" }, make("label", { for: "tensor" }, "Tensor "), select),
    figure("magnitudes", curves.formulas["top-values"]),
    make("div", { class: "halves" }, figure("kurtosis", curves.formulas.kurtosis),
      figure("max-median", curves.formulas["max-median"])),
    ...curves.left_out.map((words) => make("p", { class: "quiet" }, own(words))));
  const show = () => {
    const i = Number(select.value);
    const series = [["Top 1", curves.top[0][i]], ["Top 2", curves.top[1][i]], ["Top 3", curves.top[2][i]],
      ["Median", curves.median[i]]];
    const rows = series.flatMap(([name, values]) => values.map((value, j) => ({ series: name, layer: curves.layers[j], value })));
    return fillChart("magnitudes", positive(rows), `Largest and median magnitudes of ${curves.tensors[i]} by layer`);
  };
  select.addEventListener("change", show);
  await show();
  for (const [name, values] of [["kurtosis", curves.kurtosis], ["max-median", curves.max_median]]) {
    const rows = curves.tensors.flatMap((tensor, i) => values[i].map((value, j) => ({ tensor, layer: curves.layers[j], value })));
    await fillChart(name, positive(rows), `${name} by layer`);
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
  await fillChart("profile", rows, `Hits per token by position at magnitude ${magnitude}`);
}

async function fillGrowth() {
  const rows = stores.flatMap((store, i) =>
    growth(lattices[i], state.magnitude, layerShare(), state.positions).map((unique, n) => ({
      store: store.facts.label, tokens: page.tokens[i][n], unique })));
  await fillChart("growth", rows, "Unique features against tokens");
}

async function fillQuantisation() {
  const { quantisation } = stores[state.store];
  if (isAbsent(quantisation)) return at("quantised").replaceChildren(absent(quantisation));
  const select = make("select", { id: "site" }, quantisation.sites.map((site, i) => make("option", { value: i }, site)));
  at("quantised").replaceChildren(
    make("p", { class: "choice" }, make("label", { for: "site" }, "Site "), select),
    figure("quantisation", "Signal to quantisation noise of each format and layer: more is better. Exact: nothing is lost."),
    ...quantisation.tables.flatMap((held) => [table(held.title, held.headings, held.right, held.cells),
      make("details", {}, make("summary", {}, "What is what"),
        make("ul", { class: "notes" }, held.notes.map((note) => make("li", {}, own(note)))))]));
  const show = () => fillChart("quantisation", withExact(quantisation.formats.flatMap((format, f) => quantisation.layers.map((layer, j) => ({
    format, layer, sqnr: quantisation.sqnr_db[f][Number(select.value)][j] }))),
  ), `SQNR by format and layer at ${quantisation.sites[Number(select.value)]}`);
  select.addEventListener("change", show);
  await show();
}

async function fillEmergence() {
  const { emergence } = overview;
  if (stores.length === 1) return;
  if (isAbsent(emergence)) return at("emerging").replaceChildren(make("p", { class: "absent" }, emergence.absent));
  const rows = emergence.rows.map((row) => Object.fromEntries(emergence.names.map((name, i) => [name, row[i]])));
  const labels = stores.map((store) => store.facts.label);
  rows.sort((a, b) => labels.indexOf(a.run) - labels.indexOf(b.run));
  const points = rows.map((row) => ({ ...row, store: row.run }));
  const withPerplexity = points.filter((row) => typeof row.perplexity === "number");
  at("emerging").replaceChildren(legend(stores),
    make("div", { class: "halves" },
      figure("emergence-parameters", `Outliers against parameters, at magnitude ${emergence.magnitude} and the shares asked.`),
      withPerplexity.length ? figure("emergence-perplexity", "The same against perplexity, smaller to the right.") : null),
    make("p", { class: "quiet" }, "No line is fitted: a trend is a statement about models of one family.", " ",
      emergence.median_from.join("; ")),
    table(`Each model's largest feature at magnitude ${emergence.magnitude}`,
      ["Model", "Family", "Outliers", "Largest feature", "Critical magnitude", "Median magnitude"],
      [false, false, true, true, true, true],
      rows.map((row) => [own(row.run), own(row.family), countText(row.outliers),
        row.largest_feature < 0 ? "-" : String(row.largest_feature),
        ...[row.critical_magnitude, row.median_magnitude].map((value) => (value === null ? "-" : sixFigures(value)))])));
  await fillChart("emergence-parameters", points.filter((row) => row.total_parameters > 0), "Outliers against parameters");
  if (withPerplexity.length) await fillChart("emergence-perplexity", withPerplexity, "Outliers against perplexity");
}

/** The numbers that follow from the sliders, at once; charts follow when they rest. */
function answer() {
  const answers = stores.map((_, i) => answerOf(i));
  for (const [name, text] of [["magnitude", asked.magnitudes[state.magnitude]], ["layers", layerShare().text],
    ["positions", positionShare().text]]) {
    at(name).value = state[name];
    at(name).setAttribute("aria-valuetext", text);
    at(`${name}-value`).textContent = text;
  }
  fillTable(answers);
  fillList(answers[state.store]);
  at("status").textContent = stores.map((store, i) => `${store.facts.label}: ${answers[i].cells.outliers} outliers`).join("; ");
  document.body.dataset.place = `${state.magnitude} ${state.layers} ${state.positions}`;
}

async function drawCharts() {
  await fillSweep();
  await fillPhase();
  await fillProfile();
  await fillGrowth();
}

/** Everything about the store looked at closely. */
async function lookClosely() {
  for (const name of document.querySelectorAll(".closely")) name.replaceChildren(own(stores[state.store].facts.label));
  await fillFeature();
  await fillCurves();
  await fillQuantisation();
}

let waiting = 0;
let resting = 0;
function soon() {
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(answer);
  clearTimeout(resting);
  resting = setTimeout(drawCharts, 90);
}

function listen() {
  for (const name of ["magnitude", "layers", "positions"]) {
    at(name).max = choices[name].length - 1;
    at(name).addEventListener("input", (event) => {
      state[name] = Number(event.target.value);
      soon();
    });
  }
  at("store").append(...stores.map((store, i) => make("option", { value: i }, store.facts.label)));
  at("store").addEventListener("change", async (event) => {
    state.store = Number(event.target.value);
    state.feature = null;
    answer();
    await drawCharts();
    await lookClosely();
  });
  at("reset").addEventListener("click", () => {
    Object.assign(state, { magnitude: asked.chosen, layers: asked.layer_share, positions: asked.position_share });
    soon();
  });
  at("controls").addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("click", (event) => {
    const pick = event.target.closest("[data-feature]");
    if (!pick) return;
    state.feature = Number(pick.dataset.feature);
    for (const other of document.querySelectorAll("[data-feature]")) {
      other.setAttribute("aria-pressed", String(Number(other.dataset.feature) === state.feature));
    }
    fillFeature();
  });
}

/** On paper charts are as wide as it is, and what explains the numbers is open. */
function preparePrint() {
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open]):not(.numbers)")];
    for (const details of opened) details.open = true;
    resizeCharts(true);
  });
  window.addEventListener("afterprint", () => {
    for (const details of opened) details.open = false;
    resizeCharts(false);
  });
}

async function start() {
  const names = stores.map((store) => store.facts.label);
  at("title").append(names.length === 1 ? own(names[0]) : `${names.length} models compared`);
  at("lead").append(`Systematic outlier features at ${asked.magnitudes.length} magnitudes from ${asked.magnitudes[0]} to ` +
    `${asked.magnitudes.at(-1)}. `, asked.magnitudes.length > 1 ? `The page opens at ${asked.chosen_because}. ` : "", make("span", { class: "screen" },
    "Move a slider: every number is what the command answers, exactly."));
  at("foot").append(make("p", {}, `Made by ${overview.made_by} from the stores alone. This page asks nothing of any network.`));
  if (!("DecompressionStream" in window)) {
    at("waiting").textContent = "This browser is too old to unpack the counts (it has no DecompressionStream): " +
      "Chrome from 80, Safari from 16.4 and Firefox from 113 do.";
    return;
  }
  lattices = await Promise.all(stores.map((view) => latticeOf(view, asked)));
  for (const [sequences, text] of Object.entries(page.draws)) draws[sequences] = (await unpacked(text))[0];
  listen();
  preparePrint();
  at("main").replaceChildren(...skeleton(overview).filter(Boolean));
  if (stores.length === 1) at("store").closest(".control").classList.add("single");
  answer();
  await drawCharts();
  await lookClosely();
  await fillEmergence();
  document.body.dataset.ready = "true";
}

start();
