// The page moves: what is chosen, and everything that follows from it.

const page = JSON.parse(document.getElementById("data").textContent);
const { overview } = page;
const { asked, stores } = overview;
const at = (id) => document.getElementById(id);
const state = { magnitude: asked.chosen, layers: asked.layer_share, positions: asked.position_share, store: 0, feature: null };
const choices = { magnitude: asked.magnitudes, layers: asked.layer_shares, positions: asked.position_shares };
const LISTED = 200; // positions are known of the first so many units, whatever is chosen (analyze/overviews/ladders.py)
const MOST_HIT = 12; // tokens and experts of a feature that are shown (analyze/overviews/features.py)
let lattices = [], draws = {}, answers = [];

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
  return sentence(rule);
}

function fillTable(answers) {
  const facts = ["Total", "Active", "Experts", "Top-k", "Routing"];
  const several = stores.length > 1 ? ["Perplexity", "Precision"] : [];
  const headings = ["Model", "Outliers", "Unique features", "Per sequence [95%]", "Mean L%", "Mean S%", ...facts, ...several];
  const right = headings.map((heading) => !["Model", "Routing", "Precision"].includes(heading));
  const rows = stores.map((store, i) => {
    const { cells } = answers[i];
    const words = store.facts.model_words;
    return [modelName(i),
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

/** The numbers that follow from the sliders, at once; charts follow when they rest. */
function answer() {
  answers = stores.map((_, i) => answerOf(i));
  for (const [name, text] of [["magnitude", asked.magnitudes[state.magnitude]], ["layers", layerShare().text],
    ["positions", positionShare().text]]) {
    at(name).value = state[name];
    at(name).setAttribute("aria-valuetext", text);
    at(`${name}-value`).textContent = text;
  }
  fillTable(answers);
  fillList(answers[state.store]);
  fillFeatureTables();
  fillEmergence();
  at("status").textContent = stores.map((store, i) => `${store.facts.label}: ${answers[i].cells.outliers} outliers`).join("; ");
  document.body.dataset.place = `${state.magnitude} ${state.layers} ${state.positions}`;
}

async function drawCharts() {
  await fillSweep();
  await fillPhase();
  await drawFeature();
  await fillProfile();
  await fillGrowth();
  await drawEmergence();
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
    opened = [...document.querySelectorAll("details:not([open]):not(.numbers):not(.long-token)")];
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
  at("title").classList.toggle("long", names.length === 1 && names[0].length > 40);
  at("lead").append(`Systematic outlier features at ${asked.magnitudes.length} magnitudes from ${asked.magnitudes[0]} to ` +
    `${asked.magnitudes.at(-1)}. `, asked.magnitudes.length > 1 ? `The page opens at ${asked.chosen_because}. ` : "", make("span", { class: "screen" },
    "Move a slider: every number is what the command answers, exactly."));
  at("foot").append(make("p", {}, `Made by ${overview.made_by} from the stores alone. This page asks nothing of any network.`));
  if (!("DecompressionStream" in window)) {
    at("waiting").textContent = "This browser is too old to unpack the counts (it has no DecompressionStream): " +
      "Chrome from 80, Safari from 16.4 and Firefox from 113 do.";
    return;
  }
  for (const view of stores) view.features = await inflated(view.features).json();
  lattices = await Promise.all(stores.map((view) => latticeOf(view, asked)));
  for (const [sequences, text] of Object.entries(page.draws)) draws[sequences] = (await unpacked(text))[0];
  listen();
  preparePrint();
  at("main").replaceChildren(...skeleton(overview).filter(Boolean));
  if (stores.length === 1) at("store").closest(".control").classList.add("single");
  placeEmergence();
  answer();
  await drawCharts();
  await lookClosely();
  document.body.dataset.ready = "true";
}

start();
