"use strict";

// The last stage beside the emitted module.

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

/** Line of the module to line of the dump. */
const partner = new Map();

function codeView() {
  const dump = data.dump.trimEnd().split("\n");
  const back = new Map();
  for (const [key, at] of dumpLines(dump)) {
    if (lines.has(key)) { back.set(at, lines.get(key)); partner.set(lines.get(key), at); }
  }
  const fill = (id, texts, lineOf) => {
    $(id).replaceChildren(...texts.map((text, at) => {
      const item = make("li", {}, make("span", {}, ...coloured(text || " ", TOKENS[id])));
      const to = lineOf(at + 1);
      if (to) {
        const choose = () => go({ line: String(to) });
        item.className = "linked";
        item.tabIndex = 0;
        item.addEventListener("click", choose);
        item.addEventListener("keydown", (event) => { if (event.key === "Enter") choose(); });
      }
      return item;
    }));
  };
  fill("ir", dump, (at) => back.get(at));
  fill("module", data.code.trimEnd().split("\n"), (at) => partner.has(at) ? at : undefined);
}

/** Marks a line of the module, and that of the dump it is written from. */
function pickLine(at) {
  for (const [id, n] of [["ir", partner.get(Number(at))], ["module", Number(at)]]) {
    for (const old of $(id).querySelectorAll(".picked")) old.classList.remove("picked");
    const item = n ? $(id).children[n - 1] : undefined;
    if (item) {
      item.classList.add("picked");
      $(id).scrollTop = item.offsetTop - $(id).offsetTop - $(id).clientHeight / 2;
    }
  }
}
