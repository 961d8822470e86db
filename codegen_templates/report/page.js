"use strict";

// The report of one build: tabs over its data, the search, and the address.

const TABS = { graph: "Graph", code: "Code", ledger: "Ledger", weights: "Weights", roofline: "Roofline", keys: "Config" };
const last = data.stages.length - 1;
const lines = new Map(data.links.map(([part, op, at]) => [`${part} ${op}`, at]));
const partNames = data.stages[last].graphs.map((at) => data.graphs[at].name);
const stageNames = data.stages.map((stage) => stage.name);
const times = data.stages[last].graphs.map((at) => data.graphs[at].times);

const stageNow = () => stageNames.indexOf(address.view.stage);
const partNow = () => partNames.indexOf(address.view.part);

Object.assign(address, {
  usual: {
    tab: "graph", stage: stageNames[last], part: partNames[times.indexOf(Math.max(...times))],
    op: "", line: "", row: "", device: "h100", call: "0", q: "",
  },
  allowed(key, text) {
    const among = { tab: Object.keys(TABS), stage: stageNames, part: partNames, device: Object.keys(data.roofline.devices), call: Object.keys(data.roofline.calls) };
    if (key === "q") return true;
    return among[key] ? among[key].includes(text) : /^\d{1,9}$/.test(text);
  },
});

function ledgerTable() {
  table("ledger", ["Fusion", "", "Where", "Layers", "At", "Why", `Saved ${data.units[1]}`], [{
    rows: data.ledger.map((e) => [code(e.fusion), status(e.status), e.graph, e.graph ? e.layers : "", code(e.at), rich("span", {}, e.reason), e.launches_saved || ""]),
  }]);
}

function weightsTable() {
  const whole = data.weights.reduce((sum, part) => sum + part.all, 0);
  const largest = Math.max(1, ...data.weights.flatMap((part) => part.params.map((one) => one.nbytes * part.times)));
  const bar = (count) => {
    const made = make("span", { class: "share bytes" });
    made.style.width = `${100 * count / largest}%`;
    return make("span", { class: "shares", title: `${(100 * count / whole).toFixed(1)} % of all` }, made);
  };
  const groups = data.weights.filter((part) => part.params.length).map((part) => ({
    title: part.times > 1 ? `${part.title}: ${bytes(part.each)} in each, ${bytes(part.all)} in all` : `${part.title}: ${bytes(part.all)}`,
    rows: part.params.map((one) => [
      code(`@${one.name}`), code(one.type), bytes(one.nbytes),
      part.times > 1 ? bytes(one.nbytes * part.times) : "", bar(one.nbytes * part.times),
      code(part.prefix ? `${part.prefix} ⟶ ${one.recipe}` : one.recipe),
    ]),
  }));
  const count = data.weights.reduce((sum, part) => sum + part.params.length * part.times, 0);
  table("weights", ["Parameter", "Type", "Bytes", "In all layers", "", "From the checkpoint"], groups,
    ["All", "", "", make("b", {}, bytes(whole)), "", `${commas(count)} parameters, ${commas(whole)} bytes`]);
}

function keysTable() {
  table("keys", ["Key", "Value", "", "Why", "Where"], [{
    rows: data.keys.map((k) => [code(k.key), k.value === null ? make("span", { class: "quiet" }, "not in the config") : value(k.value), status(k.status), rich("span", {}, k.reason), k.where]),
  }]);
}

/** What fills a tab when it is first shown, so that the page opens at once. */
const FILL = { code: codeView, ledger: ledgerTable, weights: weightsTable, roofline: rooflineView, keys: keysTable };

/** Takes a change of what is shown. */
function go(changes, replace = false) {
  address.write(changes, replace);
  render();
}

let drawn = "";

/** Shows what the address says. */
function render() {
  const { tab, op, line: at, row, q } = address.view;
  showTab(TABS, tab);
  FILL[tab]?.();
  delete FILL[tab];
  if ($("query").value !== q) $("query").value = q;
  if (tab === "graph") {
    const now = `${stageNow()} ${partNow()} ${innerWidth}`;
    if (now !== drawn) drawGraph(stageNow(), partNow());
    drawn = now;
    pickOp(stageNow(), partNow(), op);
  }
  if (tab === "code") pickLine(at);
  if (tab === "roofline") drawRoofline();  // drawn as wide as it then is
  if ($(tab).querySelector("table") && tab !== "roofline") pickRow(tab, row);
}

/** Everything that can be found: label, kind, and where it is. */
function entries() {
  const found = [];
  const clear = { op: "", line: "", row: "" };
  data.stages[last].graphs.forEach((at, part) => data.graphs[at].ops.forEach((op, n) => {
    found.push([line(op), `op in ${partNames[part]}`, { ...clear, tab: "graph", stage: stageNames[last], part: partNames[part], op: String(n) }]);
  }));
  let row = 0;
  for (const part of data.weights) {
    for (const one of part.params) found.push([`@${one.name} = ${part.prefix}${one.recipe}`, "weight", { ...clear, tab: "weights", row: String(row++) }]);
  }
  data.ledger.forEach((e, n) => found.push([`${e.fusion} ${e.status} ${e.at}`, "ledger", { ...clear, tab: "ledger", row: String(n) }]));
  data.keys.forEach((k, n) => found.push([k.value === null ? k.key : `${k.key} = ${k.value}`, "config key", { ...clear, tab: "keys", row: String(n) }]));
  return found;
}

function search() {
  let all = null;
  const close = () => { $("found").hidden = true; };
  const look = () => {
    const words = $("query").value.toLowerCase().split(/\s+/).filter(Boolean);
    all ??= entries();
    const hits = words.length ? all.filter(([label]) => words.every((w) => label.toLowerCase().includes(w))).slice(0, 40) : [];
    const take = (there) => { close(); go(there); if (there.tab === "graph") box(there.op).scrollIntoView({ block: "nearest" }); };
    $("found").replaceChildren(...hits.map(([label, kind, there]) => make("li", {}, make("button", { type: "button", onclick: () => take(there) }, label.slice(0, 300), " ", make("small", {}, kind)))));
    if (words.length && !hits.length) $("found").replaceChildren(make("li", { class: "quiet" }, "Nothing of that name."));
    $("found").hidden = !words.length;
  };
  $("query").addEventListener("input", () => { address.write({ q: $("query").value }, true); look(); });
  $("search").addEventListener("submit", (event) => { event.preventDefault(); $("found").querySelector("button")?.click(); });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    if (event.key === "/" && document.activeElement === document.body) { event.preventDefault(); $("query").focus(); }
  });
  document.addEventListener("click", (event) => { if (!$("search").contains(event.target)) close(); });
  return look;
}

function start() {
  $("facts").append(...data.facts.map(([label, text]) => make("div", {}, make("dt", {}, label), make("dd", {}, text))));
  tabs(TABS, (tab) => go({ tab }));
  graphTools();
  const look = search();
  const open = () => {
    address.read();
    render();
    const { q, op, line: at, row } = address.view;
    if (q && !op && !at && !row) look();
    else $("found").hidden = true;
  };
  addEventListener("popstate", open);
  addEventListener("resize", () => { if (["graph", "roofline"].includes(address.view.tab)) render(); });
  open();
}

start();
