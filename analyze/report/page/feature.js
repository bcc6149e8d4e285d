// Which features count, and all that is held of the one looked at closely.

/** Units in the command's order, the first that are shown: by critical magnitude, or where there is none by peak. */
function listedUnits(found) {
  const first = asked.by_count ? (a, b) => b.peak - a.peak : (a, b) => b.critical - a.critical;
  return found.filter((unit) => asked.by_count || unit.critical !== null)
    .sort((a, b) => first(a, b) || a.row - b.row || a.feature - b.feature).slice(0, LISTED);
}

function pickButton(feature) {
  return make("button", { type: "button", class: "pick", "data-feature": feature,
    "aria-pressed": String(feature === state.feature), "aria-label": `Look at feature ${feature}` }, String(feature));
}

function fillList(answer) {
  const view = stores[state.store], { facts, features } = view;
  const { encoding } = view.coverage;
  const shown = listedUnits(answer.listed);
  const pairs = shown.length > 0 && shown[0].row !== null;
  const looked = new Set(features.map((one) => one.feature));
  if (!looked.has(state.feature)) state.feature = features.length ? features[0].feature : null;
  const patternText = (pattern) => sixFigures(magnitudeOf(pattern, encoding));
  const rows = shown.map((unit) => [looked.has(unit.feature) ? pickButton(unit.feature) : String(unit.feature),
    ...(pairs ? [String(facts.sequences[unit.row])] : []),
    percentText((100 * unit.layers) / unit.layersTotal), percentText((100 * unit.positions) / unit.positionsTotal),
    patternText(unit.peak), asked.by_count ? "-" : patternText(unit.critical)]);
  const what = pairs ? "pairs" : "features";
  const caption = shown.length
    ? `${shown.length < answer.outliers ? `The first ${countText(shown.length)} of ` : ""}${countText(answer.outliers)} ${what}, ` +
      `by ${asked.by_count ? "peak" : "critical magnitude"}`
    : `No ${pairs ? "pair" : "feature"} counts here: choose a smaller magnitude or lesser shares`;
  const headings = ["Feature", ...(pairs ? ["Sequence"] : []), "L%", "S%", "Peak", "Critical magnitude"];
  at("list").replaceChildren(shown.length ? table(caption, headings, headings.map(() => true), rows, { id: "units" })
    : make("p", { class: "absent" }, `${caption}.`));
  if (shown.length > 40) at("list").append(make("p", { class: "quiet paper" }, "The first 40 are printed."));
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

/** The feature's critical magnitude at the shares chosen. */
function criticalWords(feature) {
  if (asked.by_count) return "no critical magnitude (each magnitude is answered by itself)";
  const { facts, coverage } = stores[state.store];
  const found = criticalOfFeature(lattices[state.store], feature, neededOf(layerShare(), facts.layers_total), state.positions);
  return found === null ? `counts at no magnitude from ${asked.magnitudes[0]} on at these shares`
    : `critical magnitude ${sixFigures(magnitudeOf(found, coverage.encoding))}`;
}

/** What of a feature follows what is chosen, in words and tables. */
function fillFeatureTables() {
  const view = lookedAt();
  if (!view || !at("feature-facts")) return;
  const chosen = asked.magnitudes[state.magnitude];
  const critical = criticalWords(view.feature);
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
