"use strict";

// The report's script: views over the data in #data. Nothing is fetched.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const TABS = { graph: "Graph", code: "Code", ledger: "Ledger", weights: "Weights", roofline: "Roofline", keys: "Config" };
const last = data.stages.length - 1;
const lines = new Map(data.links.map(([graph, op, line]) => [`${graph} ${op}`, line]));
const state = { stage: 0, graph: Math.max(0, data.stages[0].graphs.findIndex((graph) => graph.layers)), op: null };

/** An element with attributes, listeners (`onclick`) and children. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** What fills a tab when it is first shown, so that the page opens at once. */
const FILL = { code: codeView, ledger: ledgerTable, weights: weightsTable, roofline: rooflineView, keys: keysTable };

function show(tab) {
  FILL[tab]?.();
  delete FILL[tab];
  for (const name of Object.keys(TABS)) {
    $(name).hidden = name !== tab;
    $(`tab-${name}`).setAttribute("aria-selected", name === tab);
  }
  $("tabs").scrollLeft = $(`tab-${tab}`).offsetLeft - $("tabs").clientWidth / 2;
  if (tab === "roofline") drawRoofline();  // drawn as wide as it then is
}

/** How an op reads in the dump; two stages agree on it when it did not change. */
const line = (op) => `${Object.entries(op.results).map(([n, t]) => `%${n}: ${t}`).join(", ")} = ${op.call}`;

function graphNow() {
  return data.stages[state.stage].graphs[state.graph];
}

function draw() {
  const stage = data.stages[state.stage];
  $("stage").value = state.stage;
  $("stagename").textContent = stage.name;
  $("stagedoc").textContent = stage.doc;
  $("back").disabled = state.stage === 0;
  $("next").disabled = state.stage === last;
  for (const [at, button] of [...$("parts").children].entries()) {
    button.setAttribute("aria-pressed", at === state.graph);
  }
  $("drawing").innerHTML = data.drawings[graphNow().drawing];
  markFresh();
  for (const box of $("drawing").querySelectorAll(".op")) {
    const at = Number(box.dataset.op);
    box.setAttribute("tabindex", "0");
    box.addEventListener("click", () => pick(at));
    box.addEventListener("focus", () => pick(at));
    box.addEventListener("mouseenter", () => near(at, true));
    box.addEventListener("mouseleave", () => near(at, false));
  }
  pick(state.op !== null && state.op < graphNow().ops.length ? state.op : null);
}

/** Marks the ops that the stage before did not have. */
function markFresh() {
  if (state.stage === 0) return;
  const before = new Set(data.stages[state.stage - 1].graphs[state.graph].ops.map(line));
  graphNow().ops.forEach((op, at) => {
    if (!before.has(line(op))) box(at).classList.add("fresh");
  });
}

const box = (at) => $("drawing").querySelector(`[data-op="${at}"]`);

/** Marks the edges into and out of an op. */
function near(at, on) {
  const op = graphNow().ops[at];
  for (const name of [...op.reads, ...Object.keys(op.results)]) {
    for (const edge of $("drawing").querySelectorAll(`.edge[data-value="${name}"]`)) {
      edge.classList.toggle("near", on);
    }
  }
}

function pick(at) {
  state.op = at;
  for (const old of $("drawing").querySelectorAll(".picked")) old.classList.remove("picked");
  if (at === null) {
    const fresh = $("drawing").querySelectorAll(".fresh").length;
    const told = state.stage === 0 ? "" : fresh ? ` Green: what ${data.stages[state.stage].name} put there.` : " This pass left this part alone.";
    $("details").replaceChildren(make("p", { class: "quiet" }, `Choose an op to see what it is.${told}`));
    return;
  }
  box(at).classList.add("picked");
  $("details").replaceChildren(...describe(graphNow().ops[at], at));
}

function describe(op, at) {
  const recipes = Object.entries(op.params);
  const code = state.stage === last ? lines.get(`${state.graph} ${at}`) : undefined;
  return [
    make("h2", {}, make("code", {}, op.name)),
    make("p", { class: "quiet" }, op.doc),
    make("pre", {}, line(op)),
    recipes.length ? make("h2", {}, "Weights") : null,
    ...recipes.map(([name, recipe]) => make("pre", {}, `@${name} = ${recipe}`)),
    make("p", { class: "quiet" }, `${op.launches} ${data.units[op.launches === 1 ? 0 : 1]}`),
    code ? make("p", {}, make("button", { type: "button", onclick: () => showCode(code) }, `model.py, line ${code}`)) : null,
  ].filter((part) => part !== null);
}

function tabs() {
  for (const [name, title] of Object.entries(TABS)) {
    $("tabs").append(make("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": name, onclick: () => show(name) }, title));
  }
}

function parts() {
  data.stages[0].graphs.forEach((graph, at) => {
    const label = graph.layers ? `${graph.name} [${graph.layers}]` : graph.name;
    const choose = () => { Object.assign(state, { graph: at, op: null }); draw(); };
    $("parts").append(make("button", { type: "button", onclick: choose }, label));
  });
}

function table(id, heads, rows) {
  const head = make("tr", {}, ...heads.map((text) => make("th", {}, text)));
  const body = rows.map((cells) => make("tr", {}, ...cells.map((cell, at) => make("td", { "data-head": heads[at] }, cell))));
  $(id).append(make("div", { class: "table" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body))));
}

const code = (text) => make("code", {}, text);
const status = (text) => make("span", { class: text }, text);

function ledgerTable() {
  table("ledger", ["Fusion", "", "Where", "Layers", "At", "Why", `Saved ${data.units[1]}`],
    data.ledger.map((e) => [code(e.fusion), status(e.status), e.graph, e.graph ? e.layers : "", code(e.at), e.reason, e.launches_saved || ""]));
}

function weightsTable() {
  table("weights", ["Parameter", "Type", "Layers", "From the checkpoint"],
    data.weights.map((w) => [code(`@${w.name}`), code(w.type), w.layers, code(w.prefix ? `${w.prefix} ⟶ ${w.recipe}` : w.recipe)]));
}

function keysTable() {
  table("keys", ["Key", "", "Why", "Where"],
    data.keys.map((k) => [code(k.key), status(k.status), k.reason, k.where]));
}

/** Line of the last dump for each op, as "graph op". */
function dumpLines(text) {
  const found = new Map();
  let graph = -1;
  let op = 0;
  text.forEach((content, at) => {
    if (/^(prefix_encoder|stem|block|head) /.test(content)) { graph += 1; op = 0; }
    else if (graph >= 0 && /^ {2}%/.test(content)) { found.set(`${graph} ${op}`, at + 1); op += 1; }
  });
  return found;
}

/** What is coloured in a line: the first group that matched gives the class. */
const TOKENS = {
  ir: /(?<string>"[^"]*")|(?<param>@\w+)|(?<value>%\w+)|(?<op>(?<== )[a-z_]\w*(?=\())|(?<word>^(?:program|stem|block|head|prefix_encoder)\b|^ {2}return\b)/g,
  module: /(?<string>"""|"[^"]*")|(?<param>(?<=self\.)\w+)|(?<op>(?<=ops\.)\w+)|(?<word>^(?:from|import)\b|(?<=^from \S+ )import\b|^ *(?:class|def|return|for|if|else)\b|\b(?:None|True|False)\b)/g,
};

function coloured(text, tokens) {
  const parts = [];
  let at = 0;
  for (const found of text.matchAll(tokens)) {
    const [kind] = Object.entries(found.groups).find(([, group]) => group !== undefined);
    parts.push(text.slice(at, found.index), make("i", { class: kind }, found[0]));
    at = found.index + found[0].length;
  }
  return [...parts, text.slice(at)];
}

function codeView() {
  const dump = data.stages[last].text.trimEnd().split("\n");
  const irLines = dumpLines(dump);
  const pairs = [...irLines].map(([key, at]) => [at, lines.get(key)]).filter(([, to]) => to);
  const fill = (id, texts, linked) => {
    $(id).replaceChildren(...texts.map((text, at) => {
      const item = make("li", {}, make("span", {}, ...coloured(text || " ", TOKENS[id])));
      if (linked.has(at + 1)) {
        item.className = "linked";
        item.tabIndex = 0;
        item.addEventListener("click", () => mark(linked.get(at + 1)));
        item.addEventListener("keydown", (event) => { if (event.key === "Enter") mark(linked.get(at + 1)); });
      }
      return item;
    }));
  };
  const byIr = new Map(pairs.map((pair) => [pair[0], pair]));
  const byCode = new Map(pairs.map((pair) => [pair[1], pair]));
  fill("ir", dump, byIr);
  fill("module", data.code.trimEnd().split("\n"), byCode);
  codePairs = byCode;
}

let codePairs = new Map();

function showCode(at) {
  show("code");
  mark(codePairs.get(at) ?? [null, at]);
}

function mark([irLine, codeLine]) {
  for (const [id, at] of [["ir", irLine], ["module", codeLine]]) {
    for (const old of $(id).querySelectorAll(".picked")) old.classList.remove("picked");
    const item = at && $(id).children[at - 1];
    if (item) {
      item.classList.add("picked");
      $(id).scrollTop = item.offsetTop - $(id).offsetTop - $(id).clientHeight / 2;
    }
  }
}

/** Everything that can be found: label, kind, and how to get there. */
function entries() {
  const found = [];
  const goTo = (graph, op) => () => { Object.assign(state, { stage: last, graph, op }); show("graph"); draw(); box(op).scrollIntoView({ block: "center" }); };
  data.stages[last].graphs.forEach((graph, g) => graph.ops.forEach((op, at) => {
    found.push([line(op), `op in ${graph.name}`, goTo(g, at)]);
  }));
  const row = (tab, at) => () => { show(tab); const rows = $(tab).querySelectorAll("tbody tr"); rows.forEach((r) => r.classList.remove("picked")); rows[at].classList.add("picked"); rows[at].scrollIntoView({ block: "center" }); };
  data.weights.forEach((w, at) => found.push([`@${w.name} = ${w.prefix}${w.recipe}`, "weight", row("weights", at)]));
  data.ledger.forEach((e, at) => found.push([`${e.fusion} ${e.status} ${e.at}`, "ledger", row("ledger", at)]));
  data.keys.forEach((k, at) => found.push([k.key, "config key", row("keys", at)]));
  return found;
}

function search() {
  let all = null;
  const close = () => { $("found").hidden = true; };
  $("query").addEventListener("input", () => {
    const words = $("query").value.toLowerCase().split(/\s+/).filter(Boolean);
    all ??= entries();
    const hits = words.length ? all.filter(([label]) => words.every((w) => label.toLowerCase().includes(w))).slice(0, 40) : [];
    $("found").replaceChildren(...hits.map(([label, kind, go]) => make("li", {}, make("button", { type: "button", onclick: () => { close(); go(); } }, label, " ", make("small", {}, kind)))));
    if (words.length && !hits.length) $("found").replaceChildren(make("li", { class: "quiet" }, "Nothing of that name."));
    $("found").hidden = !words.length;
  });
  $("search").addEventListener("submit", (event) => { event.preventDefault(); $("found").querySelector("button")?.click(); });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });
  document.addEventListener("click", (event) => { if (!$("search").contains(event.target)) close(); });
}

function start() {
  $("facts").append(...data.facts.map(([label, text]) => make("div", {}, make("dt", {}, label), make("dd", {}, text))));
  $("stage").max = last;
  $("stage").addEventListener("input", () => { state.stage = Number($("stage").value); state.op = null; draw(); });
  const step = (by) => () => { state.stage = Math.min(last, Math.max(0, state.stage + by)); state.op = null; draw(); };
  $("back").addEventListener("click", step(-1));
  $("next").addEventListener("click", step(1));
  tabs();
  parts();
  search();
  show("graph");
  draw();
}

start();
