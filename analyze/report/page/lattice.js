// Answers at any magnitude and shares from the counts that the page holds: the command's rules, in whole numbers.

/** All that answers take of one store. */
async function latticeOf(view, asked) {
  const { coverage, facts } = view;
  const pooled = asked.scope === "pooled";
  const shares = asked.position_shares;
  const least = neededOf(asked.layer_shares[0], facts.layers_total);
  const pairs = unitsOf(await unpacked(coverage.pairs), shares, coverage.pairs_exact, least);
  const lists = coverage.features === null ? null : await unpacked(coverage.features);
  const features = pooled ? unitsOf(lists, shares, "all", least) : null;
  const peakOf = lists && !pooled ? new Map(Array.from(running(lists[0]), (f, unit) => [f, lists[1][unit]])) : null;
  return { view, facts, coverage, asked, pooled, pairs, features, peakOf, least: new Map() };
}

/** The smallest whole number that is at least the share of a total, exactly. */
const neededOf = (share, total) =>
  Number((BigInt(share.numerator) * BigInt(total) + BigInt(share.denominator) - 1n) / BigInt(share.denominator));

/** Positions that a unit has at least which meets so many of the shares of a total. */
function leastPositions(lattice, total, steps) {
  if (!lattice.least.has(total)) {
    const needed = lattice.asked.position_shares.map((share) => neededOf(share, total));
    lattice.least.set(total, Float64Array.from([0, ...needed]));
  }
  return lattice.least.get(total)[steps];
}

/** What a unit's positions are counted out of. */
function positionsTotal({ facts, asked, pooled }, row, layers) {
  const tokens = pooled ? facts.positions_total : facts.positions_by_sequence[row];
  const cells = facts.sites.length * facts.layers.length;
  return tokens * (asked.position_coverage === "mean" ? layers : asked.position_coverage === "density" ? cells : 1);
}

/** Call `met(place)` for each unit of a column that meets the rule; `share` is the place of the share of positions. */
function eachMeeting(column, layersNeeded, share, met) {
  if (!column) return;
  const { layers, steps } = column;
  for (let i = 0; i < layers.length; i++) if (layers[i] >= layersNeeded && steps[i] > share) met(i);
}

/** A unit's critical pattern at the shares: the lesser of the rungs that it reaches; null where it has no ladder, or is
 * below the least threshold. */
function criticalPattern(units, known, layersNeeded, share) {
  const ladder = units.ladder[known];
  if (ladder < 0) return null;
  const pattern = Math.min(units.layerRungs[ladder][layersNeeded - units.least], units.shareRungs[ladder][share]);
  return Number.isNaN(pattern) ? null : pattern;
}

/** The so manieth largest of some critical patterns, the first where one counts by itself; null where there are fewer. */
const criticalOf = (patterns, { sequences_needed }) =>
  patterns.filter((pattern) => pattern !== null).sort((a, b) => b - a)[(sequences_needed ?? 1) - 1] ?? null;

/** The largest critical pattern of a feature's units at the shares, of one that is looked at closely; null where none counts. */
function criticalOfFeature({ pairs, features, facts }, feature, layersNeeded, share) {
  const units = features || pairs;
  const own = [];
  units.exact.forEach((unit, known) => {
    if (units.feature[unit] === feature) own.push(criticalPattern(units, known, layersNeeded, share));
  });
  return criticalOf(own, facts);
}

/** A unit of which positions are known, with its coverage; `i` is its place among those of its column. */
function knownUnit(lattice, units, threshold, i, layersNeeded, share) {
  const column = units.columns[threshold];
  const place = column.exact[i], exact = column.exactOf[i];
  const unit = column.units[place], layers = column.layers[place], row = units.row[unit];
  const total = positionsTotal(lattice, row, layers);
  const least = total > 0 ? leastPositions(lattice, total, column.steps[place]) : 0;
  return { row: lattice.pooled ? null : row, feature: units.feature[unit], peak: units.peaks[exact],
    critical: criticalPattern(units, exact, layersNeeded, share), layers, layersTotal: lattice.facts.layers_total,
    positions: least + units.rests[units.first[exact] + threshold], positionsTotal: total };
}

/** The units whose positions are known that meet the rule at a threshold. */
function knownUnits(lattice, units, threshold, layersNeeded, share) {
  const column = units.columns[threshold];
  const found = [];
  if (!column) return found;
  for (let i = 0; i < column.exact.length; i++) {
    const place = column.exact[i];
    if (column.layers[place] >= layersNeeded && column.steps[place] > share) {
      found.push(knownUnit(lattice, units, threshold, i, layersNeeded, share));
    }
  }
  return found;
}

/** What the definition counts: how many, of what sums of coverage by total, and the units among them that can be listed. */
function countedUnits(lattice, threshold, layersNeeded, share) {
  const { facts, pairs, features, pooled } = lattice;
  if (pairs.known === "listed") return countedCells(lattice, threshold, layersNeeded, share);
  let listed = knownUnits(lattice, pooled ? features : pairs, threshold, layersNeeded, share);
  if (facts.sequences_needed !== null) listed = metOften(lattice, listed);
  const sums = { layers: new Map(), positions: new Map() };
  for (const unit of listed) {
    add(sums.layers, unit.layersTotal, unit.layers);
    add(sums.positions, unit.positionsTotal, unit.positions);
  }
  return { outliers: listed.length, unique: new Set(listed.map((unit) => unit.feature)).size, sums, listed };
}

const add = (sums, total, count) => sums.set(total, (sums.get(total) || 0) + count);

/** The same where positions are known of some units, and sums of all. */
function countedCells(lattice, threshold, layersNeeded, share) {
  const { facts, pairs } = lattice;
  const column = pairs.columns[threshold];
  const sums = { layers: new Map(), positions: new Map() };
  let outliers = 0;
  if (column) {
    const { cells } = column;
    for (let i = 0; i < cells.counts.length; i++) {
      if (cells.layers[i] < layersNeeded || cells.steps[i] <= share) continue;
      const total = positionsTotal(lattice, 0, cells.layers[i]);
      outliers += cells.counts[i];
      add(sums.layers, facts.layers_total, cells.layers[i] * cells.counts[i]);
      add(sums.positions, total, leastPositions(lattice, total, cells.steps[i]) * cells.counts[i] + cells.sums[i]);
    }
  }
  const seen = new Uint8Array(facts.features);
  eachMeeting(column, layersNeeded, share, (i) => { seen[pairs.feature[column.units[i]]] = 1; });
  return { outliers, unique: seen.reduce((sum, one) => sum + one, 0), sums,
    listed: knownUnits(lattice, pairs, threshold, layersNeeded, share) };
}

/** Features that meet the rule in enough sequences, their coverage added up over those. */
function metOften({ facts, peakOf }, pairs) {
  const found = new Map();
  for (const pair of pairs) {
    const held = found.get(pair.feature);
    if (!held) {
      found.set(pair.feature, { ...pair, row: null, peak: peakOf.get(pair.feature), critical: [pair.critical] });
      continue;
    }
    held.critical.push(pair.critical);
    for (const name of ["layers", "layersTotal", "positions", "positionsTotal"]) held[name] += pair[name];
  }
  return [...found.values()].filter((one) => one.critical.length >= facts.sequences_needed)
    .map((one) => ({ ...one, critical: criticalOf(one.critical, facts) }));
}

/** In how many sequences each feature meets the rule. */
function timesMet({ pairs, facts }, threshold, layersNeeded, share) {
  const times = new Int32Array(facts.features);
  const column = pairs.columns[threshold];
  eachMeeting(column, layersNeeded, share, (i) => { times[pairs.feature[column.units[i]]]++; });
  return times;
}

/** How many the definition counts, no more. */
function outliersAt(lattice, threshold, layersNeeded, share) {
  const { facts, pairs, features, pooled } = lattice;
  if (facts.sequences_needed !== null) {
    return timesMet(lattice, threshold, layersNeeded, share).reduce((n, times) => n + (times >= facts.sequences_needed), 0);
  }
  const column = (pooled ? features : pairs).columns[threshold];
  let found = 0;
  if (column && column.cells) {
    const { layers, steps, counts } = column.cells;
    for (let i = 0; i < counts.length; i++) if (layers[i] >= layersNeeded && steps[i] > share) found += counts[i];
  } else {
    eachMeeting(column, layersNeeded, share, () => { found++; });
  }
  return found;
}

/** 100 times the mean of counts / totals, from sums by total, added up exactly and rounded once to a double; null of none. */
function meanPercent(sums, units) {
  if (!units) return null;
  let above = 0n, below = 1n;
  for (const [size, sum] of sums) {
    above = above * BigInt(size) + BigInt(sum) * below;
    below *= BigInt(size);
  }
  return nearestDouble(100n * above, below * BigInt(units));
}

/** The 95% bootstrap interval of the mean over sequences, from the same draws and with the same roundings. */
function interval(bySequence, draws) {
  const sequences = bySequence.length;
  if (sequences < 2) return null;
  const resamples = draws.length / sequences;
  const sums = new Float64Array(resamples);
  for (let i = 0, at = 0; i < resamples; i++) {
    let sum = 0;
    for (let q = 0; q < sequences; q++) sum += draws[at++] * bySequence[q];
    sums[i] = sum;
  }
  sums.sort();
  return [2.5, 97.5].map((percent) => {
    const place = (percent / 100) * (resamples - 1);
    const rank = Math.trunc(place);
    const low = sums[rank] / sequences, high = sums[rank + 1] / sequences, t = place - rank;
    return t >= 0.5 ? high - (high - low) * (1 - t) : low + (high - low) * t;
  });
}

/** One row of the command's table, as numbers and as it writes them; `share` is the place of the share of positions.
 * The interval is made of `draws`, or where there are none it is `known`. */
function answerAt(lattice, place, layerShare, share, draws, known) {
  const { pairs, facts } = lattice;
  const threshold = lattice.coverage.threshold_of[place];
  const layersNeeded = neededOf(layerShare, facts.layers_total);
  const { outliers, unique, sums, listed } = countedUnits(lattice, threshold, layersNeeded, share);
  const bySequence = new Array(facts.sequences.length).fill(0);
  const column = pairs.columns[threshold];
  eachMeeting(column, layersNeeded, share, (i) => { bySequence[pairs.row[column.units[i]]]++; });
  const mean = bySequence.reduce((sum, n) => sum + n, 0) / bySequence.length;
  const limits = draws ? interval(bySequence, draws) : known;
  const places = limits && limits[1] < 100 ? 1 : 0;
  return {
    outliers,
    listed,
    cells: {
      outliers: countText(outliers),
      unique: countText(unique),
      perSequence: fixed(mean, 1) + (limits ? ` [${fixed(limits[0], places)}, ${fixed(limits[1], places)}]` : ""),
      layers: percentText(meanPercent(sums.layers, outliers)),
      positions: percentText(meanPercent(sums.positions, outliers)),
    },
  };
}

/** Outliers at every magnitude, at given shares. */
function outliersByMagnitude(lattice, layerShare, share) {
  const layersNeeded = neededOf(layerShare, lattice.facts.layers_total);
  const counts = lattice.coverage.thresholds.map((_, threshold) => outliersAt(lattice, threshold, layersNeeded, share));
  return lattice.coverage.threshold_of.map((threshold) => counts[threshold]);
}

/** Mean unique features over all subsets of n sequences (rarefaction), n from 1. */
function growth(lattice, place, layerShare, share) {
  const { facts, coverage } = lattice;
  const sequences = facts.sequences.length;
  const often = new Int32Array(sequences + 1);
  const threshold = coverage.threshold_of[place];
  for (const q of timesMet(lattice, threshold, neededOf(layerShare, facts.layers_total), share)) often[q]++;
  const mean = new Array(sequences).fill(0);
  for (let q = 1; q <= sequences; q++) {
    if (!often[q]) continue;
    let missed = 1; // C(Q - q, n) / C(Q, n)
    for (let n = 1; n <= sequences; n++) {
      missed *= Math.max(0, sequences - q - n + 1) / (sequences - n + 1);
      mean[n - 1] += often[q] * (1 - missed);
    }
  }
  return mean;
}
