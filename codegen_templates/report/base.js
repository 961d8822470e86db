"use strict";

// What both pages are made with: elements, tables, and the address. Nothing is fetched.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

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

const code = (text) => make("code", {}, text);
const status = (text) => make("span", { class: text }, text);

/** A sentence in which `words` are code. */
function rich(tag, attributes, text) {
  const parts = text.split("`").map((part, at) => at % 2 ? code(part) : part);
  return make(tag, attributes, ...parts);
}

/** A number of bytes: 12.5 GB. */
function bytes(count) {
  for (const [unit, name] of [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) {
    if (count >= unit) return `${(count / unit).toPrecision(3)} ${name}`;
  }
  return `${count} B`;
}

const commas = (count) => count.toLocaleString("en");

/** JSON of a config, short; the whole of a long one unfolds. */
function value(text) {
  if (text.length <= 90) return code(text);
  return make("details", {}, make("summary", {}, code(`${text.slice(0, 80)}…`)), code(text));
}

/** Puts a table into an element: heads, then groups of rows below a title, if any.
 *  A row is a list of cells; `data-row` counts them all, so that a link finds it. */
function table(id, heads, groups, foot = null) {
  const cells = (tag, row) => make("tr", {}, ...row.map((cell, at) => make(tag, { "data-head": heads[at] }, cell)));
  let count = 0;
  const bodies = groups.map(({ title, rows }) => {
    const body = rows.map((row) => {
      const made = cells("td", row);
      made.dataset.row = count++;
      if (row.kind) made.className = row.kind;
      return made;
    });
    const head = title ? [make("tr", { class: "group" }, make("th", { colspan: heads.length, scope: "rowgroup" }, title))] : [];
    return make("tbody", {}, ...head, ...body);
  });
  const top = make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text))));
  const end = foot ? make("tfoot", {}, cells("td", foot)) : null;
  $(id).replaceChildren(make("div", { class: "table" }, make("table", {}, top, ...bodies, end ?? "")));
}

/** What is shown, as the address has it after `#`. Each page names its keys, with what
 *  is usual; what is not in `allowed` is taken for that. */
const address = {
  usual: {},
  allowed: () => true,
  view: {},

  read() {
    const said = new URLSearchParams(location.hash.slice(1));
    const known = Object.entries(this.usual).map(([key, usual]) => {
      const text = said.get(key);
      return [key, text !== null && this.allowed(key, text) ? text : usual];
    });
    this.view = Object.fromEntries(known);
  },

  /** Takes changes over, into the address and the history. */
  write(changes, replace = false) {
    Object.assign(this.view, changes);
    const said = Object.entries(this.view).filter(([key, text]) => text !== this.usual[key] && text !== "");
    const hash = `#${new URLSearchParams(said)}`;
    if (hash === (location.hash || "#")) return;
    history[replace ? "replaceState" : "pushState"](null, "", hash);
  },
};

/** Makes the tabs of a page; `choose` is called with a name. */
function tabs(titles, choose) {
  for (const [name, title] of Object.entries(titles)) {
    $("tabs").append(make("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": name, onclick: () => choose(name) }, title));
  }
}

function showTab(titles, tab) {
  for (const name of Object.keys(titles)) {
    $(name).hidden = name !== tab;
    $(`tab-${name}`).setAttribute("aria-selected", name === tab);
  }
  $("tabs").scrollLeft = $(`tab-${tab}`).offsetLeft - $("tabs").clientWidth / 2;
}

/** Marks a row of a table, and brings it into view. */
function pickRow(id, row) {
  for (const old of $(id).querySelectorAll("tr.picked")) old.classList.remove("picked");
  const found = row === "" ? null : $(id).querySelector(`tr[data-row="${Number(row)}"]`);
  found?.classList.add("picked");
  found?.scrollIntoView({ block: "center" });
}

/** Draws graphs into elements, all at the scale at which each fits: as wide as its
 *  element, and as high as the window, but not below seven tenths for that. */
function drawInto(pairs) {
  const scales = pairs.map(([element, drawing]) => {
    element.innerHTML = drawing;
    const { width, height } = element.querySelector("svg").viewBox.baseVal;
    const across = (element.clientWidth - 18) / width;
    const down = (innerHeight - element.getBoundingClientRect().top - scrollY - 34) / height;
    return Math.max(0.55, Math.min(1.2, across, Math.max(0.7, down)));
  });
  const scale = Math.min(...scales);
  for (const [element] of pairs) {
    const svg = element.querySelector("svg");
    svg.setAttribute("width", Math.round(svg.viewBox.baseVal.width * scale));
    svg.setAttribute("height", Math.round(svg.viewBox.baseVal.height * scale));
    element.scrollLeft = (element.scrollWidth - element.clientWidth) / 2;
  }
}
