// Counts that the page holds of a store's units, a column for each threshold (analyze/overviews/columns.py).

const running = (steps) => {
  let sum = 0;
  return Int32Array.from(steps, (step) => (sum += step));
};

/** Places of units sorted stably by what `values` says of each. */
function sortedBy(units, values, largest) {
  const starts = new Int32Array(largest + 2);
  for (const unit of units) starts[values[unit] + 1]++;
  for (let i = 1; i < starts.length; i++) starts[i] += starts[i - 1];
  const sorted = new Int32Array(units.length);
  for (const unit of units) sorted[starts[values[unit]]++] = unit;
  return sorted;
}

/** Units with a column for each threshold at which any is held: its units, their layers, and how many shares they meet.
 * `least`: the least number of layers that can be chosen. */
function unitsOf([rows, features, lengths, layerSteps, shareSteps, exact, peaks, rests, sums, climbing, layersDown, sharesDown],
  shares, known, least) {
  const size = lengths.length;
  const units = { size, known, row: Int32Array.from(rows), feature: running(features), columns: [], peaks, rests };
  units.exact = running(exact);
  units.first = new Float64Array(units.exact.length);
  for (let i = 1; i < units.exact.length; i++) units.first[i] = units.first[i - 1] + lengths[units.exact[i - 1]];
  const layers = new Int32Array(size), steps = new Int32Array(size);
  let alive = Int32Array.from({ length: size }, (_, unit) => unit), at = 0, cell = 0, most = 0;
  for (let place = 0; ; place++) {
    alive = alive.filter((unit) => lengths[unit] > place);
    if (!alive.length) break;
    if (place) alive = sortedBy(sortedBy(alive, layers, most), steps, shares.length);
    const column = { units: alive, layers: new Int32Array(alive.length), steps: new Int32Array(alive.length) };
    for (let i = 0; i < alive.length; i++, at++) {
      const unit = alive[i], step = shareSteps[at];
      layers[unit] = place ? layers[unit] - layerSteps[at] : layerSteps[at];
      steps[unit] = place ? steps[unit] - (step % 2 ? -(step + 1) / 2 : step / 2) : step;
      column.layers[i] = layers[unit];
      column.steps[i] = steps[unit];
      if (layers[unit] > most) most = layers[unit];
    }
    if (known === "listed") cell = countCells(column, shares.length + 1, sums, cell);
    units.columns.push(column);
  }
  const exactOf = new Int32Array(size).fill(-1);
  units.exact.forEach((unit, i) => { exactOf[unit] = i; });
  for (const column of units.columns) {
    const places = column.units.reduce((count, unit) => count + (exactOf[unit] >= 0), 0);
    column.exact = new Int32Array(places); // places in the column of units whose positions are known
    column.exactOf = new Int32Array(places);
    let i = 0;
    column.units.forEach((unit, place) => {
      if (exactOf[unit] < 0) return;
      column.exact[i] = place;
      column.exactOf[i++] = exactOf[unit];
    });
  }
  units.ladder = new Int32Array(exact.length).fill(-1);
  running(climbing).forEach((place, i) => { units.ladder[place] = i; });
  if (climbing.length) {
    units.least = least;
    units.layerRungs = rungsOf(units, layersDown, units.columns[0].layers, (layers) => layers - least + 1);
    units.shareRungs = rungsOf(units, sharesDown, units.columns[0].steps, (steps) => steps);
  }
  return units;
}

/** Patterns that each unit with a ladder reaches, each from the step down to it; `counts` of the first column say how many. */
function rungsOf(units, down, counts, sizeOf) {
  const size = new Int32Array(units.size);
  units.columns[0].units.forEach((unit, i) => { size[unit] = sizeOf(counts[i]); });
  const rungs = [];
  let at = 0;
  units.ladder.forEach((ladder, known) => {
    if (ladder < 0) return;
    const own = Float64Array.from({ length: size[units.exact[known]] }, () => down[at++]);
    for (let i = 1; i < own.length; i++) own[i] = own[i - 1] - own[i];
    rungs.push(own);
  });
  return rungs;
}

/** Give a column its cells: how many units have the same layers and shares met, and what their positions add to those. */
function countCells(column, width, sums, next) {
  const most = column.layers.reduce((a, b) => Math.max(a, b), 0);
  const counts = new Int32Array((most + 1) * width);
  for (let i = 0; i < column.units.length; i++) counts[column.layers[i] * width + column.steps[i]]++;
  const cells = { layers: [], steps: [], counts: [], sums: [] };
  counts.forEach((count, key) => {
    if (!count) return;
    cells.layers.push(Math.floor(key / width));
    cells.steps.push(key % width);
    cells.counts.push(count);
    cells.sums.push(sums[next++]);
  });
  column.cells = cells;
  return next;
}
