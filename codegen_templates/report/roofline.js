"use strict";

// The roofline tab: what each op of the last stage must take at least, on a device.

const PLOT = { width: 760, height: 340, left: 46, right: 14, top: 24, bottom: 40 };

/** Lines with their floor in µs, once, and what binds it. */
function floors() {
  const device = data.roofline.devices[address.view.device];
  return data.roofline.calls[address.view.call].lines.map(([graph, op, makes, times, bytes, flops, dtype]) => {
    const byBytes = bytes / (device.bandwidth * 1e3);
    const rate = device.flops[dtype];
    const byFlops = rate ? flops / (rate * 1e6) : 0;
    const floor = Math.max(byBytes, byFlops);
    return { graph, op, makes, times, bytes, flops, floor, all: floor * times, bound: byFlops > byBytes ? "operations" : "bytes" };
  });
}

function scaled(count, unit) {
  for (const [size, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (count >= size) return `${(count / size).toPrecision(3)} ${letter}${unit}`;
  }
  return `${count} ${unit}`;
}

const time = (us) => us >= 1e6 ? `${(us / 1e6).toPrecision(3)} s` : us >= 1e3 ? `${(us / 1e3).toPrecision(3)} ms` : `${us.toPrecision(3)} µs`;
const power = (n) => n < 3 ? String(10 ** n) : `${10 ** (n % 3)}${"kMGTPE"[Math.floor(n / 3) - 1]}`;

/** An SVG element; `make` is for HTML. */
function shape(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** The scales of the plot: intensity and rate to places, both logarithmic. */
function scales(dots, device) {
  const rates = Object.values(device.flops).map((rate) => rate * 1e12);
  const bandwidth = device.bandwidth * 1e9;
  const across = dots.map((dot) => dot.intensity).concat(rates.map((rate) => rate / bandwidth));
  const x0 = Math.floor(Math.log10(Math.min(...across)) - 0.1);
  const x1 = Math.ceil(Math.log10(Math.max(...across)) + 0.3);
  const y1 = Math.ceil(Math.log10(Math.max(...dots.map((dot) => dot.rate), ...rates)) + 0.05);
  const y0 = Math.floor(Math.log10(Math.min(...dots.map((dot) => dot.rate))) - 0.1);
  const { width, height, left, right, top, bottom } = PLOT;
  return {
    x0, x1, y0, y1, bandwidth,
    x: (value) => left + (Math.log10(value) - x0) / (x1 - x0) * (width - left - right),
    y: (value) => height - bottom - (Math.log10(value) - y0) / (y1 - y0) * (height - top - bottom),
  };
}

function axes(to) {
  const parts = [];
  const { width, height, left, right, top, bottom } = PLOT;
  for (let n = to.x0; n <= to.x1; n += 1) {
    const x = to.x(10 ** n);
    parts.push(shape("line", { class: "grid", x1: x, x2: x, y1: top, y2: height - bottom }));
    parts.push(shape("text", { x, y: height - bottom + 16, "text-anchor": "middle" }, power(n)));
  }
  for (let n = to.y0; n <= to.y1; n += 1) {
    const y = to.y(10 ** n);
    parts.push(shape("line", { class: "grid", x1: left, x2: width - right, y1: y, y2: y }));
    parts.push(shape("text", { x: left - 8, y: y + 4, "text-anchor": "end" }, power(n)));
  }
  parts.push(shape("text", { class: "axis", x: width - right, y: height - 6, "text-anchor": "end" }, "operations a byte"));
  parts.push(shape("text", { class: "axis", x: 4, y: 12 }, "operations a second"));
  return parts;
}

/** The roof: bandwidth up to the knee, then the units' rate; one for each rate. */
function roofs(to, device) {
  const dtypes = new Map();
  for (const [dtype, rate] of Object.entries(device.flops)) dtypes.set(rate, [...(dtypes.get(rate) ?? []), dtype]);
  const slope = (until) => {
    const x = Math.max(10 ** to.x0, 10 ** to.y0 / to.bandwidth);
    return `M${to.x(x)},${to.y(x * to.bandwidth)}L${to.x(until)},${to.y(until * to.bandwidth)}`;
  };
  if (!dtypes.size) return [shape("path", { class: "roof", d: slope(Math.min(10 ** to.x1, 10 ** to.y1 / to.bandwidth)) })];
  const end = PLOT.width - PLOT.right;
  return [...dtypes].flatMap(([rate, names]) => [
    shape("path", { class: "roof", d: `${slope(rate * 1e12 / to.bandwidth)}H${end}` }),
    shape("text", { x: end, y: to.y(rate * 1e12) - 6, "text-anchor": "end" }, names.join(", ")),
  ]);
}

function plot(lines) {
  PLOT.width = Math.max(320, $("roofplot").clientWidth - 16);
  PLOT.height = PLOT.width < 600 ? 260 : 340;
  const device = data.roofline.devices[address.view.device];
  const dots = lines.filter((one) => one.flops).map((one) => ({ ...one, intensity: one.flops / one.bytes, rate: one.flops / (one.floor * 1e-6) }));
  const to = scales(dots, device);
  const most = Math.max(...dots.map((dot) => dot.all));
  const circles = dots.sort((a, b) => b.all - a.all).map((dot) => {
    const tip = shape("title", {}, `${dot.op} ${dot.makes} in ${dot.graph}: ${time(dot.all)}, bound by ${dot.bound}`);
    return shape("circle", { class: dot.bound, cx: to.x(dot.intensity), cy: to.y(dot.rate), r: 4 + 10 * Math.sqrt(dot.all / most) }, tip);
  });
  const label = `Roofline of ${device.name}: operations a second over operations a byte`;
  return shape("svg", { class: "plot", viewBox: `0 0 ${PLOT.width} ${PLOT.height}`, role: "img", "aria-label": label }, ...axes(to), ...roofs(to, device), ...circles);
}

function floorRows(lines, whole) {
  return [...lines].sort((a, b) => b.all - a.all).map((one) => {
    const share = `${(100 * one.all / whole).toFixed(1)} %`;
    const bar = make("span", { class: `share ${one.bound}` });
    bar.style.width = `${Math.max(1, 100 * one.all / lines.largest)}%`;
    return [
      make("span", {}, code(one.op), " ", make("small", {}, one.makes)),
      one.times > 1 ? `${one.graph} × ${one.times}` : one.graph,
      scaled(one.bytes, "B"), scaled(one.flops, ""), time(one.floor),
      make("span", { class: "shares", title: share }, bar, make("small", {}, share)), one.bound,
    ];
  });
}

function drawRoofline() {
  const call = data.roofline.calls[address.view.call];
  const device = data.roofline.devices[address.view.device];
  const lines = floors();
  const whole = lines.reduce((sum, one) => sum + one.all, 0);
  lines.largest = Math.max(...lines.map((one) => one.all));
  const rate = call.batch * call.tokens / whole * 1e6;
  $("roofsum").replaceChildren(
    make("b", {}, time(whole)), " at least for this call, so at most ",
    make("b", {}, `${rate >= 100 ? Math.round(rate).toLocaleString("en") : rate.toPrecision(3)} tokens a second`), ". ",
    make("span", { class: "quiet" }, `${device.bandwidth.toLocaleString("en")} GB/s and ${Object.entries(device.flops).map(([d, f]) => `${f} TFLOP/s in ${d}`).join(", ") || "no figure for operations"}: ${device.source}. What a launch takes is not timed.`),
  );
  $("roofplot").replaceChildren(plot(lines));
  $("device").value = address.view.device;
  $("call").value = address.view.call;
  table("rooftable", ["Op", "Where", "Bytes", "Operations", "Floor, once", "Of the call", "Bound by"], [{ rows: floorRows(lines, whole) }]);
}

function rooflineView() {
  const choose = (id, options) => {
    $(id).append(...options.map(([value, label]) => make("option", { value }, label)));
    $(id).addEventListener("change", () => go({ [id]: $(id).value }));
  };
  choose("device", Object.entries(data.roofline.devices).map(([id, device]) => [id, device.name]));
  choose("call", data.roofline.calls.map((call, at) => [at, call.label]));
}
