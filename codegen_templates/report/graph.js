"use strict";

// The graph of a part at a stage, and what is told of an op.

/** How an op reads in the dump; two stages agree on it when it did not change. */
const line = (op) => `${Object.entries(op.results).map(([n, t]) => `%${n}: ${t}`).join(", ")} = ${op.call}`;

const graphAt = (stage, part) => data.graphs[data.stages[stage].graphs[part]];
const box = (at) => $("drawing").querySelector(`[data-op="${at}"]`);

/** Whether a pass changed a part. */
const changed = (stage, part) => stage > 0 && data.stages[stage].graphs[part] !== data.stages[stage - 1].graphs[part];

/** The stage that put an op there, as it is now. */
function since(op, stage, part) {
  while (stage > 0 && graphAt(stage - 1, part).ops.some((other) => line(other) === line(op))) stage -= 1;
  return stage;
}

function drawGraph(stage, part) {
  const graph = graphAt(stage, part);
  $("stage").value = stage;
  $("stagename").textContent = data.stages[stage].name;
  const doc = rich("span", {}, data.stages[stage].doc);
  $("stagedoc").replaceChildren(doc, changed(stage, part) || stage === 0 ? "" : ` It left ${graph.name} alone.`);
  $("back").disabled = stage === 0;
  $("next").disabled = stage === last;
  for (const [at, button] of [...$("parts").children].entries()) button.setAttribute("aria-pressed", at === part);
  for (const [at, tick] of [...$("ticks").children].entries()) {
    tick.className = changed(at, part) ? "changed" : "";
  }
  drawInto([[$("drawing"), graph.drawing]]);
  const before = stage > 0 ? new Set(graphAt(stage - 1, part).ops.map(line)) : null;
  graph.ops.forEach((op, at) => {
    const found = box(at);
    if (before && !before.has(line(op))) found.classList.add("fresh");
    found.setAttribute("tabindex", "0");
    found.addEventListener("click", () => go({ op: String(at) }));
    found.addEventListener("keydown", (event) => { if (event.key === "Enter") go({ op: String(at) }); });
    found.addEventListener("mouseenter", () => near(op, true));
    found.addEventListener("mouseleave", () => near(op, false));
  });
}

/** Marks the lines into and out of an op. */
function near(op, on) {
  for (const name of [...op.reads, ...Object.keys(op.results)]) {
    for (const edge of $("drawing").querySelectorAll(`.edge[data-value="${CSS.escape(name)}"]`)) {
      edge.classList.toggle("near", on);
    }
  }
}

function pickOp(stage, part, at) {
  for (const old of $("drawing").querySelectorAll(".picked")) old.classList.remove("picked");
  const op = at === "" ? undefined : graphAt(stage, part).ops[at];
  if (op) box(at).classList.add("picked");
  const told = op ? describe(op, Number(at), stage, part) : overview(stage, part);
  $("details").replaceChildren(...told.filter((one) => one !== null));
}

function describe(op, at, stage, part) {
  const recipes = Object.entries(op.params);
  const from = since(op, stage, part);
  const to = stage === last ? lines.get(`${part} ${at}`) : undefined;
  const link = (name) => make("button", { type: "button", class: "link", onclick: () => go({ stage: name, op: "" }) }, name);
  return [
    make("h2", {}, code(op.name)),
    rich("p", { class: "quiet" }, data.docs[op.name]),
    make("pre", {}, line(op)),
    recipes.length ? make("h3", {}, "Weights") : null,
    ...recipes.map(([name, recipe]) => make("pre", {}, `@${name} = ${recipe}`)),
    make("p", { class: "quiet" }, `${op.launches} ${data.units[op.launches === 1 ? 0 : 1]}. As it is since `, link(data.stages[from].name), "."),
    to ? make("p", {}, make("button", { type: "button", onclick: () => go({ tab: "code", line: String(to) }) }, `model.py, line ${to}`)) : null,
  ];
}

/** What a part is, and the passes that made it so. */
function overview(stage, part) {
  const graph = graphAt(stage, part);
  const launches = graph.ops.reduce((sum, op) => sum + op.launches, 0);
  const passes = data.stages.flatMap((one, at) => at <= stage && changed(at, part) ? [one] : []);
  const of = (count, words) => `${commas(count)} ${words[count === 1 ? 0 : 1]}`;
  return [
    make("h2", {}, code(graph.title)),
    graph.layers ? make("p", { class: "quiet" }, `Layers ${graph.layers.replaceAll(",", ", ")}`) : null,
    make("p", {}, `${of(graph.ops.length, ["op", "ops"])}, ${of(launches, data.units)}`, graph.bytes ? `, ${bytes(graph.bytes)} of weights${graph.layers ? " in each layer" : ""}.` : "."),
    passes.length ? make("h3", {}, "Made so by") : null,
    passes.length ? make("ul", { class: "passes" }, ...passes.map((one) => make("li", {}, make("button", { type: "button", class: "link", onclick: () => go({ stage: one.name, op: "" }) }, one.name), " ", rich("span", { class: "quiet" }, one.doc)))) : null,
    make("p", { class: "quiet" }, "Choose an op to see what it is", changed(stage, part) ? "; green is what this stage put there." : "."),
  ];
}

/** The buttons and the slider over the graph. */
function graphTools() {
  const steps = (by) => () => go({ stage: data.stages[Math.min(last, Math.max(0, stageNow() + by))].name, op: "" });
  data.stages[last].graphs.forEach((at) => {
    const graph = data.graphs[at];
    $("parts").append(make("button", { type: "button", onclick: () => go({ part: graph.name, op: "" }) }, graph.title));
  });
  $("ticks").append(...data.stages.map(() => make("i")));
  $("stage").max = last;
  $("stage").addEventListener("input", () => { const stage = Number($("stage").value); drawGraph(stage, partNow()); pickOp(stage, partNow(), ""); });
  $("stage").addEventListener("change", () => go({ stage: data.stages[Number($("stage").value)].name, op: "" }));
  $("back").addEventListener("click", steps(-1));
  $("next").addEventListener("click", steps(1));
}
