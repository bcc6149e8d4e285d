// Answers at any magnitude and shares from the counts that the page holds: the command's rules, in whole numbers.

/** Units of a store with, for each, the counts at the thresholds that it is held at. */
function unitsOf(lists, rows, held) {
  const [starts, features, lengths, peaks, layerSteps, positionSteps] = rows ? lists : [null, ...lists];
  const units = { size: lengths.length, lengths, peaks, first: new Int32Array(lengths.length) };
  units.row = new Int32Array(units.size);
  units.feature = new Int32Array(units.size);
  units.layers = new Int32Array(held ? layerSteps.length : 0);
  units.positions = new Int32Array(held ? layerSteps.length : 0);
  let row = 0, left = starts ? starts[0] : units.size, feature = 0, at = 0;
  for (let unit = 0; unit < units.size; unit++) {
    while (left === 0) {
      left = starts[++row];
      feature = 0;
    }
    left--;
    feature += features[unit];
    units.row[unit] = row;
    units.feature[unit] = feature;
    units.first[unit] = at;
    if (!held) continue;
    for (let place = 0; place < lengths[unit]; place++, at++) {
      units.layers[at] = place ? units.layers[at - 1] - layerSteps[at] : layerSteps[at];
      units.positions[at] = place ? units.positions[at - 1] - positionSteps[at] : positionSteps[at];
    }
  }
  return units;
}

/** All that answers take of one store. */
async function latticeOf(view, asked) {
  const { coverage, facts } = view;
  const pooled = asked.scope === "pooled";
  const pairs = unitsOf(await unpacked(coverage.pairs), true, true);
  const features = coverage.features === null ? null : unitsOf(await unpacked(coverage.features), false, pooled);
  const [sequences, listed, critical, peaks] = await unpacked(coverage.listed);
  const rowOf = new Map(facts.sequences.map((sequence, row) => [sequence, row]));
  const order = new Map();
  listed.forEach((feature, i) => {
    const key = sequences.length ? rowOf.get(sequences[i]) * facts.features + feature : feature;
    order.set(key, { rank: i, critical: critical.length ? magnitudeOf(critical[i], coverage.encoding) : null });
  });
  const peakOf = features && new Map(Array.from(features.feature, (f, unit) => [f, features.peaks[unit]]));
  return { view, facts, coverage, asked, pooled, pairs, features, order, peakOf };
}

/** The smallest whole number that is at least the share of a total, exactly; each total once. */
function neededOf(share) {
  const found = new Map();
  const [above, below] = [BigInt(share.numerator), BigInt(share.denominator)];
  return (total) => {
    if (!found.has(total)) found.set(total, Number((above * BigInt(total) + below - 1n) / below));
    return found.get(total);
  };
}

/** The units that meet the rule: [unit, layers, positions, positions' total] of each. */
function meeting(lattice, units, pooled, threshold, layerShare, positionShare) {
  const { facts, asked } = lattice;
  const layersNeeded = neededOf(layerShare)(facts.layers_total);
  const needed = neededOf(positionShare);
  const cells = facts.sites.length * facts.layers.length;
  const met = [];
  for (let unit = 0; unit < units.size; unit++) {
    if (units.lengths[unit] <= threshold) continue;
    const layers = units.layers[units.first[unit] + threshold];
    if (layers < layersNeeded) continue;
    const positions = units.positions[units.first[unit] + threshold];
    const tokens = pooled ? facts.positions_total : facts.positions_by_sequence[units.row[unit]];
    const times = asked.position_coverage === "mean" ? layers : asked.position_coverage === "density" ? cells : 1;
    const total = tokens * times;
    if (total > 0 && positions >= needed(total)) met.push([unit, layers, positions, total]);
  }
  return met;
}

/** What the definition counts at a threshold: rows of {row, feature, layers, layersTotal, positions, positionsTotal}. */
function countedUnits(lattice, threshold, layerShare, positionShare) {
  const { facts, pairs, features, pooled } = lattice;
  const alone = meeting(lattice, pairs, false, threshold, layerShare, positionShare);
  const bySequence = new Array(facts.sequences.length).fill(0);
  for (const [unit] of alone) bySequence[pairs.row[unit]]++;
  const own = pooled ? meeting(lattice, features, true, threshold, layerShare, positionShare) : alone;
  const units = pooled ? features : pairs;
  let counted = own.map(([unit, layers, positions, positionsTotal]) => ({
    row: pooled ? null : units.row[unit],
    feature: units.feature[unit],
    peak: units.peaks[unit],
    layers,
    layersTotal: facts.layers_total,
    positions,
    positionsTotal,
  }));
  if (facts.sequences_needed !== null) counted = metOften(lattice, counted);
  return { counted, bySequence };
}

/** Features that meet the rule in enough sequences, their coverage added up over those. */
function metOften(lattice, pairs) {
  const found = new Map();
  for (const pair of pairs) {
    const held = found.get(pair.feature);
    if (!held) {
      found.set(pair.feature, { ...pair, row: null, times: 1, peak: lattice.peakOf.get(pair.feature) });
      continue;
    }
    held.times++;
    for (const name of ["layers", "layersTotal", "positions", "positionsTotal"]) held[name] += pair[name];
  }
  return [...found.values()].filter((one) => one.times >= lattice.facts.sequences_needed);
}

/** 100 times the mean of counts / totals, added up exactly and rounded once to a double; null of nothing. */
function meanPercent(units, count, total) {
  if (!units.length) return null;
  const sums = new Map();
  for (const unit of units) sums.set(unit[total], (sums.get(unit[total]) || 0) + unit[count]);
  let above = 0n, below = 1n;
  for (const [size, sum] of sums) {
    above = above * BigInt(size) + BigInt(sum) * below;
    below *= BigInt(size);
  }
  return nearestDouble(100n * above, below * BigInt(units.length));
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

/** One row of the command's table, as numbers and as it writes them. */
function answerAt(lattice, place, layerShare, positionShare, draws) {
  const threshold = lattice.coverage.threshold_of[place];
  const { counted, bySequence } = countedUnits(lattice, threshold, layerShare, positionShare);
  const mean = bySequence.reduce((sum, n) => sum + n, 0) / bySequence.length;
  const limits = draws ? interval(bySequence, draws) : null;
  const layers = meanPercent(counted, "layers", "layersTotal");
  const positions = meanPercent(counted, "positions", "positionsTotal");
  const places = limits && limits[1] < 100 ? 1 : 0;
  return {
    counted,
    outliers: counted.length,
    unique: new Set(counted.map((unit) => unit.feature)).size,
    cells: {
      outliers: countText(counted.length),
      unique: countText(new Set(counted.map((unit) => unit.feature)).size),
      perSequence: fixed(mean, 1) + (limits ? ` [${fixed(limits[0], places)}, ${fixed(limits[1], places)}]` : ""),
      layers: percentText(layers),
      positions: percentText(positions),
    },
  };
}

/** Outliers at every magnitude, at given shares. */
function outliersByMagnitude(lattice, layerShare, positionShare) {
  const known = new Map();
  return lattice.coverage.threshold_of.map((threshold) => {
    if (!known.has(threshold)) {
      known.set(threshold, countedUnits(lattice, threshold, layerShare, positionShare).counted.length);
    }
    return known.get(threshold);
  });
}

/** Mean unique features over all subsets of n sequences (rarefaction), n from 1. */
function growth(lattice, place, layerShare, positionShare) {
  const { facts, pairs, coverage } = lattice;
  const met = meeting(lattice, pairs, false, coverage.threshold_of[place], layerShare, positionShare);
  const times = new Map();
  for (const [unit] of met) times.set(pairs.feature[unit], (times.get(pairs.feature[unit]) || 0) + 1);
  const sequences = facts.sequences.length;
  return Array.from({ length: sequences }, (_, i) => {
    let total = 0;
    for (const q of times.values()) {
      let missed = 1; // C(Q - q, n) / C(Q, n)
      for (let k = 0; k <= i; k++) missed *= Math.max(0, sequences - q - k) / (sequences - k);
      total += 1 - missed;
    }
    return total;
  });
}
