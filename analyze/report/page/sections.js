// The page's parts, built from text nodes alone: no name or token of a store is ever read as markup.

/** An element with attributes and children; strings become text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null));
  return element;
}

/** Text of a store, kept apart from the direction of what is around it. */
const own = (text) => make("bdi", {}, text);

const LONGEST_TOKEN = 40;

/** Token text with what cannot be seen made visible; the end of a long one is shown when it is opened. */
function tokenText(token) {
  if (token.text === null) return make("span", { class: "quiet" }, token.token_id === null ? "-" : `id ${token.token_id}`);
  const seen = token.text.replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g, (letter) =>
    ({ "\n": "\u21b5", "\t": "\u21e5", "\r": "\u240d" })[letter] ||
    `<U+${letter.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}>`
  );
  const letters = Array.from(seen.replace(/ /g, "\u2423"));
  const shown = (text) => make("code", { class: "token", title: token.token_id === null ? null : `token ${token.token_id}` }, own(text));
  if (letters.length <= LONGEST_TOKEN) return shown(letters.join(""));
  return make("details", { class: "long-token" }, make("summary", {}, shown(`${letters.slice(0, LONGEST_TOKEN - 1).join("")}\u2026`)),
    shown(letters.join("")));
}

/** A table with a caption, headings with scopes, and cells below; `right` says which columns are numbers. */
function table(caption, headings, right, rows, attributes = {}) {
  const head = headings.map((heading, i) => make("th", { scope: "col", class: right[i] ? "number" : null },
    typeof heading === "string" ? heading.replace(/-(?=\w)/g, "\u2011") : heading)); // no line ends at a hyphen
  const body = rows.map((row) =>
    make("tr", {}, row.map((cell, i) =>
      make(i ? "td" : "th", { scope: i ? null : "row", class: right[i] ? "number" : null }, cell ?? "-"))));
  const scroll = make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption });
  scroll.append(make("table", attributes, make("caption", {}, make("span", {}, caption)), make("thead", {}, make("tr", {}, head)),
    make("tbody", {}, body)));
  return scroll;
}

/** A section with its heading, and what it means in words below. */
function section(id, title, lead, ...children) {
  return make("section", { id, "aria-labelledby": `${id}-title` }, make("h2", { id: `${id}-title` }, title),
    lead ? make("p", { class: "section-lead" }, lead) : null, ...children);
}

/** A figure for the chart of that name, with its numbers as a table, which is made when it is opened. */
function figure(name, caption) {
  const numbers = make("details", { class: "numbers", "data-numbers": name }, make("summary", {}, "The numbers"),
    make("div", {}));
  numbers.addEventListener("toggle", () => fillNumbers(numbers));
  return make("figure", {}, make("div", { class: "chart", "data-chart": name }),
    make("figcaption", { id: `${name}-caption` }, caption), numbers);
}

function fillNumbers(details) {
  if (details.open && details.numbers) details.lastElementChild.replaceChildren(details.numbers());
}

/** A list to choose from by place, and the paragraph that it stands in with its label. */
function choiceOf(id, label, names) {
  const select = make("select", { id }, names.map((name, i) => make("option", { value: i }, name)));
  return [select, make("p", { class: "choice" }, make("label", { for: id }, `${label} `), select)];
}

/** Why a section has nothing to show. */
const absent = (view) => make("p", { class: "absent" }, make("strong", {}, `${view.kind}. `), own(view.absent));

const isAbsent = (view) => Object.hasOwn(view, "absent");

/** The line and point that a model has in every chart. */
function swatch(index) {
  const { color, fill, strokeDash } = markOf(index);
  const drawing = (tag, attributes, ...children) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  return drawing("svg", { class: "swatch", viewBox: "0 0 28 12", "aria-hidden": "true", stroke: color },
    drawing("path", { d: "M0 6H28", "stroke-width": 2, "stroke-dasharray": strokeDash.join(" ") }),
    drawing("circle", { cx: 14, cy: 6, r: 4.2, "stroke-width": 1.6, fill }));
}

/** A model's name with its mark; one too long for a few lines is cut, whole where the pointer rests and for who cannot see it. */
const modelName = (index) => make("span", { class: "name", title: stores[index].facts.label }, swatch(index),
  own(stores[index].facts.label));

/** Names of the models with their marks: the legend of all charts that show several. */
function legend(stores) {
  return make("ul", { class: "legend", "aria-label": "Models" },
    stores.map((_, i) => make("li", {}, modelName(i))));
}

function definitionList(entries) {
  return make("dl", {}, entries.map(([term, words]) =>
    make("div", {}, make("dt", {}, term), make("dd", {}, typeof words === "string" ? own(words) : words))));
}

const bytesText = (bytes) => {
  const units = ["bytes", "kB", "MB", "GB", "TB", "PB"];
  let power = 0;
  while (bytes >= 1000 && power < units.length - 1) {
    bytes /= 1000;
    power++;
  }
  return `${power ? bytes.toPrecision(3) : bytes} ${units[power]}`;
};

/** All that never changes as the page moves. */
function skeleton(overview) {
  const { asked, stores } = overview;
  const one = stores.length === 1;
  const unit = asked.unit === "feature" ? "features" : "(sequence, feature) pairs";
  return [
    section("answer", "How many", null,
      make("div", { id: "table" }),
      make("p", { class: "definition" }, make("strong", {}, `Definition ${asked.definition}. `), make("span", { id: "words" })),
      make("details", {}, make("summary", {}, "What the columns mean"),
        make("ul", { class: "notes" }, asked.notes.filter((note) => !overview.notes.includes(note)).map((note) => make("li", {}, own(note))),
          make("li", {}, `Interval: ${page.bootstrap}; of more than ${countText(page.most_drawn)} sequences it is held ` +
            "for the shares asked alone."))),
      overview.notes.length
        ? make("div", { class: "warning", role: "note" }, make("h3", {}, "Not like with like"),
          make("ul", {}, overview.notes.map((note) => make("li", {}, own(note)))))
        : null),
    section("magnitudes", "Outliers against magnitude",
      `How many ${unit} count at each magnitude, at the shares chosen above. The scale is linear up to 1 and ` +
      "logarithmic above it.",
      one ? null : legend(stores), figure("sweep", "The vertical line and the large points are the magnitude chosen.")),
    section("phase", "Magnitude and layers together",
      make("span", {}, "Outliers of ", make("span", { class: "closely" }),
        " over the magnitude and the least share of layers, at the share of positions chosen above."),
      figure("phase", "Where counts stay level along one axis, the answer does not depend on that criterion. " +
        "The outlined cell is nearest to what is chosen.")),
    section("features", "Which features",
      make("span", {}, "What counts in ", make("span", { class: "closely" }), ", as the command lists it."),
      make("div", { class: "columns" }, make("div", { id: "list" }), make("div", { id: "feature" })),
      make("div", { id: "feature-more" })),
    section("by-layer", "Layer by layer",
      make("span", {}, "Of all values, whether they count or not, in ", make("span", { class: "closely" }), "."),
      make("div", { id: "curves" })),
    section("profile", "Position by position",
      make("span", {}, "Values that reach the magnitude chosen, by their place in the sequence, in ",
        make("span", { class: "closely" }), "."),
      make("div", { id: "position-profile" })),
    section("growth", "Does the count grow with tokens?",
      "Distinct features that count in at least one of n sequences, the mean over all choices of n: a curve that is " +
      "flat at its end has seen them all.",
      one ? null : legend(stores),
      figure("growth", "At the magnitude and shares chosen above; each sequence by itself.")),
    section("quantisation", "Quantised",
      make("span", {}, "The error of the activation that each format makes at a site of ",
        make("span", { class: "closely" }), ": not perplexity, nothing is propagated."),
      make("div", { id: "quantised" })),
    one ? null : section("emergence", "Between models", null, make("div", { id: "emerging" })),
    section("provenance", "Where the numbers come from", null, stores.map(provenance)),
  ];
}

/** What a store is: the model, the text, the software, its size and how much of it there is. */
function provenance(store) {
  const { facts } = store;
  const { corpus, software, command, created } = facts.provenance;
  const words = facts.model_words;
  const text = [corpus.source, corpus.config, corpus.split].filter(Boolean).join(" ");
  const size = facts.bytes_on_disk === null
    ? `${bytesText(facts.raw_bytes)} decoded`
    : `${bytesText(facts.bytes_on_disk)} on disk, ${bytesText(facts.raw_bytes)} decoded ` +
      `(ratio ${(facts.bytes_on_disk / facts.raw_bytes).toFixed(3)})`;
  return make("details", { open: true, class: "provenance" }, make("summary", {}, own(facts.label)),
    definitionList([
      ["Model", `${facts.model.id}${facts.model.revision ? ` at ${facts.model.revision.slice(0, 12)}` : ""}`],
      ["Parameters", `${words.Total} total, ${words.Active} active`],
      ["Experts", words.Experts === "-" ? "none" : `${words.Experts}, top ${words["Top-k"]}, ${words.Routing}`],
      ["Precision", words.Precision],
      ["Perplexity", words.Perplexity],
      ["Text", `${text}${corpus.revision ? ` at ${corpus.revision.slice(0, 12)}` : ""}`],
      ["Tokens", `${countText(facts.sequences.length)} of ${countText(facts.sequences_in_store)} sequences ` +
        `(${countText(facts.sequences_complete)} complete) of ${countText(corpus.length)} tokens; ` +
        `hash ${corpus.token_sha256.slice(0, 12) || "none"}`],
      ["Rule here", facts.shares_words],
      ["Answered from", facts.answered_from],
      ["Kept", `${facts.retention}; ${size}`],
      ["Captured", `${created || "at an unknown time"} by outlier-features ${software.outlier_features}, ` +
        `transformers ${software.transformers}, torch ${software.torch}, on ${software.device_name || software.device}`],
      ["Command", make("code", {}, own(command.join(" ")))],
      ["Store", make("code", {}, own(facts.path))],
    ]));
}
