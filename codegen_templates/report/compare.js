"use strict";

// The report of two builds: what differs, by op, weight, config key and fusion.

const count = (name) => data.counts[name] ? ` ${data.counts[name]}` : "";
const TABS = { ops: `Ops${count("ops")}`, weights: `Weights${count("weights")}`, keys: `Config${count("keys")}`, fusions: `Fusions${count("fusions")}`, facts: "Facts" };
const SIDES = ["a", "b"];
const TOLD = { same: "", changed: "other", a: "A alone", b: "B alone" };
const differ = (part) => part.rows.filter((row) => row.mark !== "same").length;
const weighed = data.parts.map((part) => part.a && part.b ? differ(part) : -1);
const most = weighed.indexOf(Math.max(...weighed));

Object.assign(address, {
  usual: { tab: "ops", part: String(most), row: "", all: "" },
  allowed(key, text) {
    if (key === "tab") return text in TABS;
    if (key === "part") return /^\d{1,4}$/.test(text) && Number(text) < data.parts.length;
    return key === "all" ? text === "yes" : /^\d{1,9}$/.test(text);
  },
});

function go(changes, replace = false) {
  address.write(changes, replace);
  render();
}

const partNow = () => data.parts[Number(address.view.part)];

/** Rows that differ, or all of them, with the class that colours them. */
function shown(rows, cells) {
  const kept = rows.filter((row) => address.view.all || row.mark !== "same");
  return kept.map((row) => Object.assign([...cells(row), make("span", { class: `mark ${row.mark}` }, TOLD[row.mark])], { kind: row.mark }));
}

/** Fills a tab, or says that it has nothing to show. */
function fill(id, heads, groups, foot = null) {
  const some = groups.filter(({ rows }) => rows.length);
  if (some.length) table(id, [...heads, ""], some, foot);
  else $(id).replaceChildren(make("p", { class: "quiet" }, "Nothing differs here."));
}

function drawSides() {
  const part = partNow();
  for (const [at, button] of [...$("parts").children].entries()) button.setAttribute("aria-pressed", at === Number(address.view.part));
  for (const side of SIDES) {
    $(`title-${side}`).textContent = part[side]?.title ?? "";
    $(`drawing-${side}`).replaceChildren(make("p", { class: "quiet" }, "It has no such part."));
  }
  drawInto(SIDES.filter((side) => part[side]).map((side) => [$(`drawing-${side}`), part[side].drawing]));
  part.rows.forEach((row, at) => {
    for (const side of SIDES.filter((one) => row[one])) {
      const box = $(`drawing-${side}`).querySelector(`[data-op="${row[side][0]}"]`);
      box.classList.add(row.mark);
      box.setAttribute("tabindex", "0");
      box.addEventListener("click", () => go({ row: String(at) }));
      box.addEventListener("keydown", (event) => { if (event.key === "Enter") go({ row: String(at) }); });
    }
  });
}

/** Marks an op on both sides, and its line, which is there even if it is equal. */
function pickOp() {
  const part = partNow();
  const picked = address.view.row === "" ? undefined : part.rows[Number(address.view.row)];
  for (const old of document.querySelectorAll("#ops .picked")) old.classList.remove("picked");
  for (const side of SIDES) {
    if (picked?.[side]) $(`drawing-${side}`).querySelector(`[data-op="${picked[side][0]}"]`).classList.add("picked");
  }
  const kept = part.rows.filter((row) => address.view.all || row.mark !== "same" || row === picked);
  const cells = (row) => Object.assign([
    ...SIDES.map((side) => row[side] ? code(row[side][1]) : ""),
    make("span", { class: `mark ${row.mark}` }, TOLD[row.mark]),
  ], { kind: row === picked ? `${row.mark} picked` : row.mark });
  if (kept.length) table("oplines", ["In A", "In B", ""], [{ rows: kept.map(cells) }]);
  else $("oplines").replaceChildren(make("p", { class: "quiet" }, "The ops of this part are equal."));
}

function weightsTable() {
  const of = (one) => one ? make("span", {}, code(one.type), " ", make("small", {}, bytes(one.nbytes))) : "";
  const from = (row) => {
    const texts = [...new Set(SIDES.map((side) => row[side]?.from).filter(Boolean))];
    return make("span", {}, ...texts.map((text, at) => make("div", {}, texts.length > 1 ? make("span", { class: `side ${SIDES[at]}` }, "AB"[at]) : "", " ", code(text))));
  };
  const groups = data.weights.map((part) => ({
    title: `${part.title}, in all layers ${bytes(part.a)} and ${bytes(part.b)}`,
    rows: shown(part.rows, (row) => [code(`@${row.name}`), of(row.a), of(row.b), from(row)]),
  }));
  const sum = (side) => data.weights.reduce((whole, part) => whole + part[side], 0);
  const [a, b] = SIDES.map(sum);
  const total = (n) => make("span", {}, make("b", {}, bytes(n)), ` ${commas(n)} bytes`);
  const more = a === b ? "as many bytes" : `B has ${bytes(Math.abs(b - a))} ${b > a ? "more" : "less"}`;
  fill("weights", ["Parameter", "In A", "In B", "From the checkpoint"], groups, ["All", total(a), total(b), more, ""]);
}

function keysTable() {
  const of = (one) => !one ? make("small", {}, "not there") : make("span", {}, one[0] === null ? "" : value(one[0]), " ", make("small", { class: one[1] }, one[1]));
  fill("keys", ["Key", "In A", "In B"], [{ rows: shown(data.keys, (row) => [code(row.key), of(row.a), of(row.b)]) }]);
}

function fusionsTable() {
  const of = (outcomes) => make("span", {}, ...(outcomes ?? []).map(([part, outcome, why]) => make("div", {}, part ? `${part}: ` : "", status(outcome), " ", rich("span", { class: "quiet" }, why))));
  fill("fusions", ["Fusion", "In A", "In B"], [{ rows: shown(data.fusions, (row) => [code(row.fusion), of(row.a), of(row.b)]) }]);
}

function factsTable() {
  const rows = data.facts.map(([label, a, b]) => Object.assign([label, a, b], { kind: a === b ? "same" : "changed" }));
  table("facttable", ["", "A", "B"], [{ rows }]);
  $("files").textContent = data.files.length ? `Files that differ as they were written: ${data.files.join(", ")}.` : "All files are equal as they were written.";
}

const FILL = { weights: weightsTable, keys: keysTable, fusions: fusionsTable, facts: factsTable };
let drawn = "";

function render() {
  const { tab, part, all } = address.view;
  showTab(TABS, tab);
  $("all").checked = all === "yes";
  FILL[tab]?.();
  if (tab === "ops") {
    const now = `${part} ${innerWidth}`;
    if (now !== drawn) drawSides();
    drawn = now;
    pickOp();
  }
}

function start() {
  $("said").append(...data.said.map((text) => make("p", {}, text)));
  data.parts.forEach((part, at) => {
    const label = differ(part) ? `${part.name} · ${differ(part)}` : part.name;
    $("parts").append(make("button", { type: "button", onclick: () => go({ part: String(at), row: "" }) }, label));
  });
  tabs(TABS, (tab) => go({ tab, row: "" }));
  $("all").addEventListener("change", () => go({ all: $("all").checked ? "yes" : "" }));
  const open = () => { address.read(); render(); };
  addEventListener("popstate", open);
  addEventListener("resize", () => { if (address.view.tab === "ops") render(); });
  open();
}

start();
