// Which features count, and all that is held of the one looked at closely.

/** Whether critical magnitudes are held at the shares chosen. */
const criticalKnown = ({ coverage }) => coverage.critical === "everywhere" || (coverage.critical === "asked" && isAsked());

/** Whether the command's order is held at all shares, and whether at those chosen; without critical magnitudes it is by peak. */
const orderHeld = ({ coverage }) => coverage.critical !== "asked";
const orderKnown = (store) => orderHeld(store) || isAsked();

/** Units in the command's order, as far as that is held, else by peak: the first that are shown. */
function listedUnits(index, found) {
  const lattice = lattices[index];
  const { facts, coverage } = stores[index];
  const keyOf = (unit) => (unit.row === null ? unit.feature : unit.row * facts.features + unit.feature);
  if (coverage.critical === "everywhere") {
    return found.filter((unit) => unit.critical !== null)
      .sort((a, b) => b.critical - a.critical || a.row - b.row || a.feature - b.feature).slice(0, LISTED);
  }
  if (!criticalKnown(stores[index])) {
    return found.map((unit) => ({ ...unit, critical: null }))
      .sort((a, b) => b.peak - a.peak || a.row - b.row || a.feature - b.feature).slice(0, LISTED);
  }
  return found.map((unit) => ({ ...unit, ...lattice.order.get(keyOf(unit)) })).filter((unit) => unit.rank !== undefined)
    .sort((a, b) => a.rank - b.rank).slice(0, LISTED);
}

function pickButton(feature) {
  return make("button", { type: "button", class: "pick", "data-feature": feature,
    "aria-pressed": String(feature === state.feature), "aria-label": `Look at feature ${feature}` }, String(feature));
}

function fillList(answer) {
  const view = stores[state.store], { facts, features } = view;
  const { encoding } = view.coverage;
  const shown = listedUnits(state.store, answer.listed);
  const pairs = shown.length > 0 && shown[0].row !== null;
  const looked = new Set(features.map((one) => one.feature));
  if (!looked.has(state.feature)) state.feature = features.length ? features[0].feature : null;
  const patternText = (pattern) => sixFigures(magnitudeOf(pattern, encoding));
  const rows = shown.map((unit) => [looked.has(unit.feature) ? pickButton(unit.feature) : String(unit.feature),
    ...(pairs ? [String(facts.sequences[unit.row])] : []),
    percentText((100 * unit.layers) / unit.layersTotal), percentText((100 * unit.positions) / unit.positionsTotal),
    patternText(unit.peak), criticalKnown(view) && unit.critical !== undefined ? patternText(unit.critical) : "-"]);
  const what = pairs ? "pairs" : "features";
  const caption = shown.length
    ? `${shown.length < answer.outliers ? `The first ${countText(shown.length)} of ` : ""}${countText(answer.outliers)} ${what}, ` +
      `by ${criticalKnown(view) ? "critical magnitude" : "peak"}`
    : `No ${pairs ? "pair" : "feature"} counts here: choose a smaller magnitude or lesser shares`;
  const headings = ["Feature", ...(pairs ? ["Sequence"] : []), "L%", "S%", "Peak", "Critical magnitude"];
  at("list").replaceChildren(shown.length ? table(caption, headings, headings.map(() => true), rows, { id: "units" })
    : make("p", { class: "absent" }, `${caption}.`));
  if (shown.length > 40) at("list").append(make("p", { class: "quiet paper" }, "The first 40 are printed."));
  at("list-order").textContent = orderKnown(view) ? "as the command lists it" : "by peak: critical magnitudes, by which the " +
    `command lists it, are held for the shares that were asked for alone, ${asked.layers} of layers and ` +
    `${asked.positions} of positions`;
  if (shown.some((unit) => !looked.has(unit.feature))) {
    at("list").append(make("p", { class: "quiet screen" }, `${countText(features.length)} features can be looked at here: ` +
      "those with a button. The others are in their store: --features N holds more."));
  }
  const others = features.filter((one) => !shown.some((unit) => unit.feature === one.feature));
  if (others.length) {
    at("list").append(make("p", { class: "quiet screen picks" }, make("span", {}, "Also looked at"),
      others.map((one) => pickButton(one.feature))));
  }
}

const lookedAt = () => stores[state.store].features.find((one) => one.feature === state.feature);

/** All of a feature: what no magnitude changes, and places for what follows the magnitude. */
async function fillFeature() {
  const { facts } = stores[state.store];
  const view = lookedAt();
  if (!view) {
    at("feature").replaceChildren(make("p", { class: "absent" }, "No feature of this store was looked at closely."));
    at("feature-more").replaceChildren();
    return;
  }
  at("feature").replaceChildren(
    make("h3", {}, `Feature ${view.feature}`),
    make("p", { class: "fact", id: "feature-facts" }),
    figure("cells", "The largest |X| in each layer and site, over all positions and sequences looked at."));
  at("feature-more").replaceChildren(figure("feature-positions", ""),
    table("Its largest values", ["Token", "Sequence", "Position", "|X|"], [false, true, true, true],
      view.positions.map((peak) => [tokenText(peak), String(peak.sequence), countText(peak.position), sixFigures(peak.peak)])),
    make("div", { id: "feature-tokens" }), make("div", { id: "feature-experts" }));
  fillFeatureTables();
  const rows = facts.sites.flatMap((site, i) => facts.layers.map((layer, j) => ({ site, layer, peak: view.layer_peak[i][j] })));
  const top = largestOf(rows, (row) => row.peak);
  await fillChart("cells", rows, `Peaks of feature ${view.feature} by layer and site: the largest, ${sixFigures(top.peak)}, ` +
    `at ${top.site} of layer ${top.layer}`, () => table(`Peaks of feature ${view.feature}`, ["Layer", ...facts.sites],
    [true, ...facts.sites.map(() => true)],
    facts.layers.map((layer, j) => [String(layer), ...facts.sites.map((_, i) => sixFigures(view.layer_peak[i][j]))])));
  await drawFeature();
}

/** What of a feature follows the magnitude, in words and tables. */
function fillFeatureTables() {
  const view = lookedAt();
  if (!view || !at("feature-facts")) return;
  const chosen = asked.magnitudes[state.magnitude];
  const critical = view.critical_magnitude === null ? "does not count at the magnitudes and shares asked"
    : `critical magnitude ${sixFigures(view.critical_magnitude)}${isAsked() ? "" : " at the shares asked"}`;
  const hits = view.position_hits[state.magnitude].reduce((sum, n) => sum + n, 0);
  const median = view.median_magnitude[state.magnitude];
  at("feature-facts").textContent = `Peak ${sixFigures(view.peak)}, ${critical}. It reaches ${chosen} at ${countText(hits)} of ` +
    `${countText(view.position_tokens.reduce((sum, n) => sum + n, 0))} positions` +
    `${median === null ? "" : `, with a median of ${sixFigures(median)} there`}.`;
  const hitsOf = (one) => (state.magnitude < one.hits.length ? one.hits[state.magnitude] : 0);
  const most = (all) => all.filter((one) => hitsOf(one) > 0).sort((a, b) => hitsOf(b) - hitsOf(a)).slice(0, MOST_HIT);
  at("feature-tokens").replaceChildren(...(view.tokens.length ? [tableOrNone(`Tokens most often hit at ${chosen}`,
    ["Token", "Hits", "Occurrences"], [false, true, true],
    most(view.tokens).map((token) => [tokenText(token), countText(hitsOf(token)), countText(token.occurrences)]))] : []));
  const listed = !isAbsent(view.experts);
  at("feature-more").classList.toggle("three", !listed);
  const title = `Experts whose tokens it is hit in most, at ${chosen} (ln_mlp)`;
  at("feature-experts").replaceChildren(!listed
    ? make("p", { class: "absent" }, make("strong", {}, `Experts. ${view.experts.kind}. `), own(view.experts.absent))
    : view.experts.some((one) => hitsOf(one) === null)
      ? absent({ kind: "Experts. Not in this store", absent: `Its slices are zero below its floor, above ${chosen}.` })
      : tableOrNone(title, ["Layer", "Expert", "Hits", "Tokens given"], [true, true, true, true],
        most(view.experts).map((one) => [one.layer, one.expert, hitsOf(one), one.tokens].map(countText))));
}

const tableOrNone = (caption, headings, right, rows) =>
  (rows.length ? table(caption, headings, right, rows) : make("p", { class: "quiet" }, `${caption}: none.`));

/** The chart of a feature that follows the magnitude. */
async function drawFeature() {
  const view = lookedAt();
  if (!view || !at("feature-positions-caption")) return;
  const chosen = asked.magnitudes[state.magnitude];
  const rows = view.position_bins.map((bin, i) => {
    const hits = view.position_hits[state.magnitude][i], tokens = view.position_tokens[i];
    return { bin, hits, tokens, share: tokens ? hits / tokens : 0 };
  });
  at("feature-positions-caption").textContent = `Share of positions at which any cell reaches ${chosen}.`;
  const top = largestOf(rows, (row) => row.share);
  await fillChart("feature-positions", rows, `Share of positions at which feature ${view.feature} reaches ${chosen}: ` +
    `the largest, ${percentText(100 * top.share)}, at ${top.bin}`, () => table(`Positions at which feature ${view.feature} ` +
    `reaches ${chosen}`, ["Positions", "Hit", "Looked at", "Share"], [false, true, true, true],
    rows.map((row) => [row.bin, countText(row.hits), countText(row.tokens), percentText(100 * row.share)])));
}
