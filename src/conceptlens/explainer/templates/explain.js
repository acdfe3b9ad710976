"use strict";
// The page's whole programme: it reads the numbers in #data and draws. It never asks the network for anything.
// Values become colours as in conceptlens.render: same tables, same bilinear half-pixel enlargement, same rounding.

(() => {
  const LONGEST = 900; // pixels of the longest side of the overlay's canvas
  const THUMB = 100;
  const state = { image: 0, question: 0, opacity: 0.6, shared: false, cells: false, gamma: 0, chosen: new Set(), at: null };
  let report;

  // ---------------------------------------------------------------- small words

  const find = (id) => document.getElementById(id);
  const minus = (text) => text.replaceAll("-", "−");
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const image = () => report.images[state.image];
  const question = () => image().questions[state.question];
  /** The part of the photo that a map covers; maps that were made elsewhere have their own. */
  const boxOf = (item) => item.box ?? image().box;

  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in element) element[name] = value;
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  function number(value) {
    const size = Math.abs(value);
    return minus(value === 0 || (size >= 1e-3 && size < 1e5) ? String(Number(value.toPrecision(3))) : value.toExponential(1));
  }

  function percent(share) {
    const value = 100 * share;
    if (value > 0 && value < 0.1) return "<0.1%";
    return `${value >= 9.95 || value === 0 ? Math.round(value) : value.toFixed(1)}%`;
  }

  function signedPercent(share) {
    const text = plus(share, percent(Math.abs(share)));
    return text.replace("+<", "<+").replace("−<", ">−");
  }

  const plus = (value, text) => (value > 0 ? `+${text}` : value < 0 ? `−${text}` : text);

  function list(words) {
    return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
  }

  // ---------------------------------------------------------------- maps and scales

  const isLive = (item) => item.kind === "contrast" && image().contrast !== null;

  /** The map of a question; a contrast is computed here from its parts. */
  function gridOf(item) {
    return isLive(item) ? contrastGrid(image().contrast, state.gamma, state.chosen) : item.map;
  }

  const isSigned = (item) => item.signed && !isLive(item);

  /** Weights of the chosen references, scaled to sum to 1; the others weigh 0. */
  function weightsOf(references, chosen) {
    const total = references.reduce((sum, one, i) => sum + (chosen.has(i) ? one.weight : 0), 0);
    return references.map((one, i) => (chosen.has(i) && total > 0 ? one.weight / total : 0));
  }

  /** ReLU(target - gamma * sum of weight * reference), Finer-CAM's map, linear in the gradients before the ReLU. */
  function contrastGrid(contrast, gamma, chosen) {
    const weights = weightsOf(contrast.references, chosen);
    const { target, references } = contrast.maps;
    const values = target.values.map((value, cell) => {
      const subtracted = references.reduce((sum, map, i) => sum + weights[i] * map.values[cell], 0);
      return Math.max(0, value - gamma * subtracted);
    });
    return { height: target.height, width: target.width, values };
  }

  /** One scale for several maps: 0 to the highest value, or the same distance around zero. */
  function scaleOf(grids, signed) {
    let highest = 0;
    for (const grid of grids) {
      for (const value of grid.values) highest = Math.max(highest, signed ? Math.abs(value) : value);
    }
    const high = highest > 0 ? highest : 1;
    return { low: signed ? -high : 0, high, signed };
  }

  /** Whether the model knows the word; one that it does not know has neither map nor numbers. */
  const isKnown = (item) => item.known !== false;
  const isCompeting = (item) => item.regions === "competing";

  /** The questions whose maps have the unit of this one: concepts among themselves, classes and contrasts too.
   *  Competing regions are powers of shares, so one says nothing about the height of another. */
  function kin(item) {
    if (isCompeting(item)) return [item];
    const isConcept = item.kind === "concept";
    return image().questions.filter((q) => isKnown(q) && !isCompeting(q) && (q.kind === "concept") === isConcept && isSigned(q) === isSigned(item));
  }

  const isShared = (item) => state.shared && kin(item).length > 1;

  function scaleFor(item) {
    return scaleOf((isShared(item) ? kin(item) : [item]).map(gridOf), isSigned(item));
  }

  /** Where a map peaks (0..1 of the photo) and the share of the photo that reaches half of it. */
  function locationOf(item) {
    const { height, width, values } = gridOf(item);
    const highest = Math.max(...values);
    if (highest <= 0 && !isSigned(item)) return { peak: null, area: 0 };
    if (!isLive(item)) return { peak: item.peak, area: item.area };
    const [left, top, right, bottom] = boxOf(item);
    const cells = values.flatMap((value, i) => (value === highest ? [i] : []));
    const mean = (of) => cells.reduce((sum, i) => sum + of(i), 0) / cells.length;
    const x = mean((i) => ((i % width) + 0.5) / width);
    const y = mean((i) => (Math.floor(i / width) + 0.5) / height);
    const half = values.filter((value) => value >= highest / 2).length / values.length;
    // Rounded as `conceptlens explain` does it: a peak on the border of two thirds has one name in both.
    const rounded = (share) => Number(share.toFixed(4));
    return {
      peak: [rounded(left + x * (right - left)), rounded(top + y * (bottom - top))],
      area: rounded(half * (right - left) * (bottom - top)),
    };
  }

  function locationWords({ peak, area }) {
    if (peak === null) return "nowhere";
    const third = (share, ...words) => words[Math.min(2, Math.floor(share * 3))];
    const words = `${third(peak[1], "upper", "middle", "lower")} ${third(peak[0], "left", "centre", "right")}`;
    return words === "middle centre" ? "centre" : words; // as `conceptlens explain` prints it
  }

  /** The score of a question; that of a contrast follows the sliders where it is a margin of logits. */
  function scoreOf(item) {
    if (!isLive(item)) return item.score;
    const { contrast, target } = image();
    const margin = (gamma, chosen) =>
      weightsOf(contrast.references, chosen).reduce((sum, weight, i) => sum - gamma * weight * contrast.references[i].score, target.logit);
    const whole = new Set(contrast.references.keys());
    const fits = Math.abs(margin(contrast.gamma, whole) - item.score) <= 1e-3 * (1 + Math.abs(item.score));
    return fits ? margin(state.gamma, state.chosen) : item.score;
  }

  // ---------------------------------------------------------------- pixels

  /** For each pixel the cells before and after it, and how far it is from the one to the other. */
  function between(cells, size, stepped) {
    return Array.from({ length: size }, (_, pixel) => {
      const position = ((pixel + 0.5) * cells) / size;
      if (stepped) return [Math.floor(position), Math.floor(position), 0];
      const centred = clamp(position - 0.5, 0, cells - 1);
      const before = Math.floor(centred);
      return [before, Math.min(before + 1, cells - 1), centred - before];
    });
  }

  /** An ImageData of a map, enlarged, then coloured. */
  function coloured(grid, scale, width, height, opacity, stepped) {
    const name = scale.signed ? "signed" : "sequential";
    const table = report.colours[name];
    const alpha = report.colours.alpha[name];
    const pixels = new ImageData(width, height);
    const columns = between(grid.width, width, stepped);
    let at = 0;
    for (const [upper, lower, down] of between(grid.height, height, stepped)) {
      for (const [left, right, across] of columns) {
        const value = (row) => grid.values[row * grid.width + left] * (1 - across) + grid.values[row * grid.width + right] * across;
        const mixed = value(upper) * (1 - down) + value(lower) * down;
        const index = Math.round(clamp((mixed - scale.low) / (scale.high - scale.low), 0, 1) * 255);
        pixels.data.set(table[index], at);
        pixels.data[at + 3] = Math.round(alpha[index] * opacity);
        at += 4;
      }
    }
    return pixels;
  }

  function paint(canvas, grid, scale, box, opacity, stepped) {
    const context = canvas.getContext("2d");
    const edge = (share, size) => Math.floor(share * size + 0.5);
    const [left, top] = [edge(box[0], canvas.width), edge(box[1], canvas.height)];
    const width = Math.max(1, edge(box[2], canvas.width) - left);
    const height = Math.max(1, edge(box[3], canvas.height) - top);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.fillStyle = `rgb(0 0 0 / ${report.colours.dim * opacity})`;
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.putImageData(coloured(grid, scale, width, height, opacity, stepped), left, top);
  }

  /** The part of the photo that a small picture shows: what the model saw, or what lies around a detection. */
  function viewOf(item) {
    const detected = detectionOf(item);
    if (!detected) return boxOf(item);
    const { width, height } = image();
    const [left, top, right, bottom] = detected.box;
    const side = Math.max(1.4 * Math.max((right - left) * width, (bottom - top) * height), 0.2 * Math.min(width, height));
    const [across, down] = [Math.min(1, side / width), Math.min(1, side / height)];
    const x = clamp((left + right - across) / 2, 0, 1 - across);
    const y = clamp((top + bottom - down) / 2, 0, 1 - down);
    return [x, y, x + across, y + down];
  }

  /** That part of the photo, small, with its map. */
  function paintThumb(canvas, item) {
    const [left, top, right, bottom] = viewOf(item);
    const { naturalWidth, naturalHeight } = find("photo");
    const layer = make("canvas", { width: canvas.width, height: canvas.height });
    const within = boxOf(item).map((share, i) => (i % 2 ? (share - top) / (bottom - top) : (share - left) / (right - left)));
    paint(layer, gridOf(item), scaleFor(item), within, 0.75, state.cells);
    const context = canvas.getContext("2d");
    const [x, y] = [left * naturalWidth, top * naturalHeight];
    context.drawImage(find("photo"), x, y, (right - left) * naturalWidth, (bottom - top) * naturalHeight, 0, 0, canvas.width, canvas.height);
    context.drawImage(layer, 0, 0);
  }

  function paintRamp(scale) {
    const ramp = find("ramp");
    const values = Array.from({ length: ramp.width }, (_, i) => scale.low + ((scale.high - scale.low) * i) / (ramp.width - 1));
    const grid = { height: 1, width: ramp.width, values };
    ramp.getContext("2d").putImageData(coloured(grid, scale, ramp.width, 1, 1, true), 0, 0);
  }

  // ---------------------------------------------------------------- the look: photo, map, scale

  function showStage() {
    const scale = scaleFor(question());
    paint(find("overlay"), gridOf(question()), scale, boxOf(question()), state.opacity, state.cells);
    paintRamp(scale);
    find("low").textContent = number(scale.low);
    find("middle").textContent = scale.signed ? "0" : "";
    find("high").textContent = number(scale.high);
    find("scale-words").textContent = scaleWords(question(), scale);
    showScaleChoice();
    find("opacity-value").textContent = `${Math.round(100 * state.opacity)}%`;
    showLocation();
    showBoxes();
    showContrast();
    showReadout();
  }

  /** The boxes of a detector, that of the chosen row in full. */
  function showBoxes() {
    const boxes = (image().detections ?? []).map((one) => {
      const [left, top, right, bottom] = one.box;
      const chosen = one.questions.includes(state.question);
      const element = make("div", { className: chosen ? "box chosen" : "box" });
      if (chosen) element.append(boxLabel(one));
      const place = { left, top, width: right - left, height: bottom - top };
      for (const [side, share] of Object.entries(place)) element.style[side] = `${100 * share}%`;
      return element;
    });
    find("boxes").replaceChildren(...boxes);
  }

  /** What is written on a box: beside it where it would not fit, on the side where the photo has room. */
  function boxLabel({ box: [left, top, right], short_name: name, score }) {
    const element = make("span", { textContent: `${name} ${score.toFixed(2)}` });
    element.classList.toggle("above", top > 0.08);
    element.classList.toggle("leftward", left + right > 1.2);
    return element;
  }

  /** The detection that a question is about. */
  const detectionOf = (item) => image().detections?.find((one) => one.questions.includes(image().questions.indexOf(item)));

  /** Whether a question compares the class of a detection with another one at its box. */
  const isRather = (item) => item.kind === "contrast" && detectionOf(item) !== undefined;

  /** What the score of a question is called beside it. */
  const scoreName = (item) => (isRather(item) ? "lead" : detectionOf(item) ? "logit" : "score");

  /** The choice as it is in force: a map without kin has its own scale only. */
  function showScaleChoice() {
    for (const radio of document.getElementsByName("scale")) {
      radio.checked = (radio.value === "shared") === isShared(question());
      radio.disabled = radio.value === "shared" && kin(question()).length < 2;
    }
  }

  function scaleWords(item, scale) {
    const meaning = scale.signed ? " Blue speaks for it, red against." : "";
    if (isCompeting(item)) return "This map’s own scale; competing regions have none in common.";
    if (!isShared(item)) return `This map’s own scale.${meaning}`;
    const named = item.kind === "concept" ? "concepts" : image().detections ? "maps of detections" : "class maps";
    return `The same scale for ${kin(item).length} ${named}.${meaning}`;
  }

  function showLocation() {
    const spot = locationOf(question());
    const words = locationWords(spot);
    const ring = find("peak");
    ring.hidden = words === "nowhere" || question().place_vague === true || state.opacity === 0;
    if (!ring.hidden) [ring.style.left, ring.style.top] = spot.peak.map((share) => `${100 * share}%`);
    const unclear = " has no clear place: its map is hardly told from its surroundings, or its texts are read by what does not know where parts are.";
    const none = detectionOf(question()) ? ` has no evidence in layer ${image().layer}; another layer may have it.` : " has no evidence in this photo.";
    const where = words === "nowhere" ? none : question().place_vague ? unclear : ` peaks at the ${words}; half the peak or more on ${percent(spot.area)} of the photo.`;
    const { name, detail } = titleOf(question());
    find("caption").replaceChildren(make("b", { textContent: name }), isLive(question()) || isRather(question()) ? ` ${detail}` : "", where, mapWords(question()));
  }

  /** Where the map comes from, where that is not the one layer that is named above. */
  function mapWords(item) {
    if (isCompeting(item)) return " It competes with everyday words for every cell.";
    return item.layer ? ` Its map is from layer ${item.layer}.` : "";
  }

  function showReadout() {
    const { height, width, values } = gridOf(question());
    const cell = find("cell");
    const at = state.at;
    const shown = at !== null && at.row < height && at.column < width;
    cell.hidden = find("mark").hidden = !shown;
    find("readout").classList.toggle("quiet", !shown);
    if (!shown) {
      find("readout").textContent = "Point at the photo, or focus it and use the arrow keys, to read a value.";
      return;
    }
    const value = values[at.row * width + at.column];
    const scale = scaleFor(question());
    const [left, top, right, bottom] = boxOf(question()).map((share) => 100 * share);
    cell.style.left = `${left + ((right - left) * at.column) / width}%`;
    cell.style.top = `${top + ((bottom - top) * at.row) / height}%`;
    cell.style.width = `${(right - left) / width}%`;
    cell.style.height = `${(bottom - top) / height}%`;
    find("mark").style.left = `${100 * clamp((value - scale.low) / (scale.high - scale.low), 0, 1)}%`;
    find("readout").textContent = `Value ${number(value)} at row ${at.row + 1}, column ${at.column + 1} of ${height} × ${width} cells`;
  }

  function point(event) {
    const frame = find("stage").getBoundingClientRect();
    const [left, top, right, bottom] = boxOf(question());
    const x = ((event.clientX - frame.left) / frame.width - left) / (right - left);
    const y = ((event.clientY - frame.top) / frame.height - top) / (bottom - top);
    const { height, width } = gridOf(question());
    const inside = x >= 0 && x < 1 && y >= 0 && y < 1;
    state.at = inside ? { row: Math.floor(y * height), column: Math.floor(x * width) } : null;
    showReadout();
  }

  /** Choose the detection that is pointed at: the smallest box there, and if it is chosen already the next larger. */
  function pick(event) {
    const frame = find("stage").getBoundingClientRect();
    const [x, y] = [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
    const size = ({ box: [left, top, right, bottom] }) => (right - left) * (bottom - top);
    const there = (image().detections ?? []).filter(({ box: [left, top, right, bottom] }) => x >= left && x <= right && y >= top && y <= bottom);
    there.sort((a, b) => size(a) - size(b));
    const now = there.findIndex((one) => one.questions.includes(state.question));
    if (there.length > 0) choose(there[(now + 1) % there.length].questions[0]);
  }

  function walk(event) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step && event.key !== "Escape") return;
    const { height, width } = gridOf(question());
    const at = state.at ?? { row: (height - 1) >> 1, column: (width - 1) >> 1 };
    const moved = state.at && step ? step : [0, 0];
    state.at = step ? { row: clamp(at.row + moved[0], 0, height - 1), column: clamp(at.column + moved[1], 0, width - 1) } : null;
    event.preventDefault();
    showReadout();
  }

  // ---------------------------------------------------------------- the contrast

  function resetContrast() {
    const { contrast } = image();
    state.gamma = contrast === null ? 0 : contrast.gamma;
    state.chosen = new Set(contrast === null ? [] : contrast.references.keys());
  }

  function showContrast() {
    const { contrast } = image();
    find("contrast").hidden = !isLive(question());
    if (!isLive(question())) return;
    const weights = weightsOf(contrast.references, state.chosen);
    find("gamma").value = state.gamma;
    find("gamma-value").textContent = state.gamma.toFixed(2);
    find("formula").textContent = formula(contrast);
    find("reference-list").querySelectorAll("label").forEach((label, i) => {
      label.querySelector("input").checked = state.chosen.has(i);
      label.querySelector("small").textContent = state.chosen.has(i) ? `weight ${percent(weights[i])}` : "left out";
    });
  }

  const chosenNames = (contrast) => contrast.references.flatMap((one, i) => (state.chosen.has(i) ? [one.short_name] : []));

  function formula(contrast) {
    const names = chosenNames(contrast);
    if (names.length === 0 || state.gamma === 0) return `The evidence for ${contrast.target}, nothing subtracted.`;
    const mean = names.length > 1 ? "the mean for " : "that for ";
    return `The evidence for ${contrast.target}, less ${state.gamma.toFixed(2)} × ${mean}${list(names)}; what is below zero is left out.`;
  }

  function fillReferences() {
    const { contrast } = image();
    const labels = (contrast === null ? [] : contrast.references).map((one, i) => {
      const box = make("input", { type: "checkbox", checked: true });
      box.addEventListener("change", () => {
        if (box.checked) state.chosen.add(i);
        else state.chosen.delete(i);
        refresh();
      });
      return make("label", {}, box, make("span", { textContent: one.short_name, title: fullName(one) }), make("small"));
    });
    find("reference-list").replaceChildren(...labels);
  }

  // ---------------------------------------------------------------- the answers: what, where, how much

  function countWords() {
    const { target, against, questions } = image();
    if (target === null || questions.every((one) => one.contribution === null)) return "";
    if (isQuantity()) return ` “How much”: blue, to the right, raises ${target.short_name}; red, to the left, lowers it.`;
    return ` “How much”: blue, to the right, speaks for ${target.short_name}; red, to the left, ${against === null ? "against it" : `for ${against.short_name}`}.`;
  }

  /** Whether the model gives quantities, which have no probability. */
  const isQuantity = () => image().task === "regression";

  /** The probability of a class, or its score where it has none. */
  const shareOf = (one) => (one.probability === null ? number(one.logit) : percent(one.probability));

  /** All names of a class and its index, for tooltips. */
  const fullName = (one) => `${one.name} (class ${one.index})`;

  function fillAnswer() {
    const { target, against, model, layer, predictions } = image();
    find("source").textContent = [(target || image().detections) && image().name, model, layer && `layer ${layer}`].filter(Boolean).join(" · ");
    showHeadline();
    find("predictions").hidden = predictions.length === 0;
    find("predictions").replaceChildren(...predictions.map((one) => prediction(one, one.index === target?.index)));
    const none = image().none_likely ? " No concept of the vocabulary is likely in this photo." : "";
    find("table-words").textContent = `Choose a row${image().detections ? " or a box" : ""} to see where.${none}${countWords()}`;
    find("word-dimmed").hidden = image().questions.every((one) => boxOf(one).join() === "0,0,1,1");
    find("contribution-words").textContent = contributionWords(target, against);
    find("concept-words").textContent = conceptWords();
    const hasConcepts = image().questions.some((one) => one.kind === "concept");
    for (const id of ["word-concept", "word-presence", "word-z-score", "word-contribution"]) find(id).hidden = !hasConcepts;
    find("table").classList.toggle("scores-only", !hasConcepts);
    find("score-head").replaceChildren(...(hasConcepts ? [make("a", { href: "#word-presence", textContent: "In the photo" }), " ", make("small", { textContent: "presence" })] : ["Score"]));
    find("word-detection").hidden = !image().detections;
    find("word-score").hidden = Boolean(image().detections);
    find("box-unknown").hidden = image().box_known;
    find("word-competing").hidden = !image().questions.some(isCompeting);
    const { choice = "" } = image();
    Object.assign(find("choice-words"), { textContent: choice && `${choice}.`, hidden: choice === "" });
    find("word-unknown").hidden = image().questions.every(isKnown);
  }

  /** The class that is explained and those it is compared with; the model's answer, where it is none of them. */
  function showHeadline() {
    const { name, target, against, compared = against === null ? [] : [against], other_answer: other = "", differences = "" } = image();
    const likely = (one) => `${one.short_name} (${shareOf(one)})`;
    const answer = other || (image().detections ? detectedWords() : target === null ? name : target.short_name);
    Object.assign(find("answer"), { textContent: answer, title: target === null || other ? "" : fullName(target) });
    const share = target === null ? "" : shareOf(target);
    const asked = other ? `Shown is what speaks for ${likely(target)}` : share;
    const rather = image().detections ? `Detected with a score of ${image().settings.threshold} or more` : compared.length > 0 ? `${asked}, rather than ${list(compared.map(likely))}` : other ? asked : "";
    Object.assign(find("rather"), { textContent: rather, title: compared.map(fullName).join("; "), hidden: rather === "" });
    const { task_note: note = "", model } = image();
    Object.assign(find("task-note"), { textContent: `Of ${model}, ${note}.`, hidden: note === "" });
    Object.assign(find("differences"), { textContent: differences && `${differences}.`, hidden: differences === "" });
  }

  /** The classes that a detector found, the surest first, and how often: `car (2), bus`. */
  function detectedWords() {
    const counts = new Map();
    for (const { short_name: name } of image().detections) counts.set(name, (counts.get(name) ?? 0) + 1);
    return [...counts].map(([name, count]) => (count > 1 ? `${name} (${count})` : name)).join(", ");
  }

  function prediction(one, isTarget) {
    const fill = make("i");
    fill.style.width = `${100 * (one.probability ?? 0)}%`;
    const title = `${fullName(one)}: ${image().score_name ?? "logit"} ${number(one.logit)}`;
    const share = make("span", { className: "share", textContent: shareOf(one) });
    const rail = make("span", { className: "rail", "aria-hidden": "true", hidden: one.probability === null }, fill);
    return make("li", { className: isTarget ? "target" : "", title }, make("span", { textContent: one.short_name }), rail, share);
  }

  /** What a contrast stands against; with gamma 0, as where no contrast was chosen, it is the class alone. */
  function contrastWords(names) {
    if (names.length === 0) return "against nothing";
    return state.gamma === 0 ? "the class alone: gamma 0" : `against ${list(names)}`;
  }

  function contributionWords(target, against) {
    if (target === null) return "By how much a class depends on the concept; this model has no classes.";
    if (image().margin) {
      const { over, unit } = image().margin;
      const all = over === "all other classes";
      const rivals = over === null ? "" : ` over ${all ? "its rivals, the other classes" : over}`;
      const units = unit.startsWith("units") ? unit.replace("the output", `${target.short_name}, as the model puts it out`) : `units of the ${unit}`;
      const what = isQuantity() ? `What raises ${target.short_name}, of all that lies` : `The evidence for ${target.short_name}${rivals} that lies`;
      const sum = isQuantity() ? `${target.short_name} itself` : over === null ? `the log-odds of ${target.short_name}` : "the margin";
      const negative = isQuantity() ? "lowers it" : `speaks ${over === null ? "against it" : `for ${all ? "other classes" : over}`}`;
      return `${what} where the concept is, in ${units}. Concepts at the same place share it; all of them and what has no name add up to ${sum}. Negative: what lies there ${negative}. It says where the evidence lies, not what would happen if the concept were removed.`;
    }
    const silenced = "when the channels that carry the concept are silenced, averaged over 20 steps.";
    if (against === null) {
      return `By how much the probability of ${target.short_name} falls ${silenced} Negative: the concept speaks against the class. Silencing any strong channel lowers a class, so concepts that have nothing to do with it get some too.`;
    }
    return `By how much the probability of ${target.short_name}, when only it and ${against.short_name} are compared, falls ${silenced} Positive: the concept speaks for ${target.short_name}; negative: for ${against.short_name}.`;
  }

  /** What encoded the texts of this photo's concepts: trained branches, the model's own pair, or both. */
  function conceptWords() {
    const { texts = [], branches = [] } = image();
    const own = texts.filter((name) => !branches.includes(name));
    const trained = branches.map((name) => `the ${name}, trained to score concepts from this model’s layers as its teacher does`);
    const untrained = "with its text encoder or, where a classifier has none, a stand-in that knows only what distinguishes its classes";
    const readers = [...trained, ...(own.length > 0 || trained.length === 0 ? [`${list(own) || "the model"} itself, ${untrained}`] : [])];
    return `Texts are encoded by ${readers.join("; and by ")}.`;
  }

  /** What a word drawn at random would get; nothing where it was not asked for. */
  function fillRandomLevel() {
    const { random_level: level = null, margin } = image();
    find("random-words").hidden = level === null;
    if (level === null) return;
    const size = margin ? (level < 0.005 ? "under 0.01" : `about ${level.toFixed(2)}`) : `about ${percent(level)}`;
    find("random-words").textContent = `A word drawn at random would get ${size} here: a contribution of that size says nothing.`;
  }

  function fillTable() {
    find("table").querySelectorAll("tbody").forEach((body) => body.remove());
    const rows = image().questions.map(row);
    const isConcept = (_, i) => image().questions[i].kind === "concept";
    const groups = [rows.filter((one, i) => !isConcept(one, i)), rows.filter(isConcept)];
    for (const group of groups.filter((one) => one.length > 0)) find("table").append(make("tbody", { role: "rowgroup" }, ...group));
  }

  function row(item, index) {
    const radio = make("input", { type: "radio", name: "question", value: String(index), checked: index === state.question, disabled: !isKnown(item) });
    const words = make("span", {}, make("b"), make("small"));
    const what = make("label", { className: "what" }, radio, thumb(item), words);
    if (!isKnown(item)) return unknownRow(item, what, index);
    const cells = [make("td", {}, what), make("td", { className: "where" }), presenceOf(item), figure("z-score", sigma(item.z_score)), much(item)];
    cells.forEach((cell) => cell.setAttribute("role", "cell"));
    const element = make("tr", { role: "row", "data-question": String(index) }, ...cells);
    radio.addEventListener("change", () => choose(index));
    element.addEventListener("click", () => radio.checked || (radio.focus({ preventScroll: true }), choose(index)));
    return element;
  }

  /** A word that the model does not know: it is named, and cannot be chosen. */
  function unknownRow(item, what, index) {
    what.querySelector("b").textContent = item.label;
    what.querySelector("small").textContent = item.type;
    what.querySelector("canvas").style.visibility = "hidden"; // its place is kept, so that names stand in line
    const cells = [make("td", {}, what), make("td", { className: "where", colSpan: 4, textContent: "not known to this model" })];
    cells.forEach((cell) => cell.setAttribute("role", "cell"));
    return make("tr", { role: "row", className: "unknown", "data-question": String(index) }, ...cells);
  }

  /** What a question is called, and what kind it is; a contrast names the classes that are chosen now. */
  function titleOf(item) {
    if (isLive(item)) {
      const names = chosenNames(image().contrast);
      return { name: image().contrast.target, detail: contrastWords(names) };
    }
    const kinds = { class: "the class itself", contrast: "contrast", concept: item.type ?? "concept", detection: "detection", region: "where the class has the highest score, or in your mask", custom: "a map of your own" };
    const layer = item.layer ? ` · ${item.layer}` : "";
    const detected = detectionOf(item);
    if (detected) {
      const score = `score ${detected.score.toFixed(2)}`;
      return { name: detected.short_name, detail: item.kind === "contrast" ? `rather than ${detected.against}` : score };
    }
    return { name: item.short_label ?? item.label, detail: `${kinds[item.kind] ?? item.kind}${layer}` };
  }

  function thumb(item) {
    const [left, top, right, bottom] = viewOf(item);
    const shape = ((right - left) * image().width) / ((bottom - top) * image().height);
    return make("canvas", { width: Math.round(THUMB * clamp(shape, 0.5, 2)), height: THUMB, "aria-hidden": "true" });
  }

  /** How likely the concept is in the photo, above its score; the tooltip says what that rests on. */
  function presenceOf(item) {
    const known = item.presence !== null && item.presence !== undefined;
    const score = make("small", { "data-name": "score", "data-word": scoreName(item) });
    if (!known) return make("td", { className: "figure" }, score);
    const unusual = item.z_score === null ? [] : [`the score is ${sigma(item.z_score)} from usual`];
    const usual = item.implied === null || item.implied === undefined ? [] : [`photos of the predicted classes show it in ${percent(item.implied)}`];
    const everyday = item.base_rate === null || item.base_rate === undefined ? [] : [`photos in general in ${percent(item.base_rate)}`];
    const title = `This rests on: ${list([...unusual, ...usual, ...everyday])}.`;
    return make("td", { className: "figure", title }, make("span", { "data-name": "presence", textContent: percent(item.presence) }), score);
  }

  const sigma = (value) => (value === null ? null : plus(value, `${Math.abs(value).toFixed(1)} σ`));

  function figure(name, text) {
    return make("td", { className: text === null ? "figure none" : "figure", "data-name": name, textContent: text ?? "–" });
  }

  function much(item) {
    if (item.contribution === null) return make("td", { className: "much none" }, make("span", { className: "share", textContent: "–" }));
    const most = Math.max(...image().questions.map((q) => Math.abs(q.contribution ?? 0))) || 1;
    const fill = make("i", { className: item.contribution < 0 ? "against" : "for" });
    fill.hidden = item.contribution === 0;
    fill.style.width = `${(50 * Math.abs(item.contribution)) / most}%`;
    const share = make("span", { className: "share", textContent: image().margin ? logits(item.contribution) : signedPercent(item.contribution) });
    const range = item.contribution_range ? [make("small", { textContent: `${logits(item.contribution_range[0])} to ${logits(item.contribution_range[1])}` })] : [];
    const above = item.contribution_above_random ?? null;
    const byChance = above === null ? [] : [make("small", { textContent: `${signedPercent(above)} above random` })];
    return make("td", { className: "much" }, make("div", { className: "signed", "aria-hidden": "true" }, fill), share, ...range, ...byChance);
  }

  /** A number of logits with its sign. */
  const logits = (value) => plus(value, Math.abs(value).toFixed(2));

  /** The margin as a bar: what speaks for the class to the right of zero, what speaks against it to the left. */
  function fillMargin() {
    const { margin, target, questions } = image();
    find("margin").hidden = !margin || target === null;
    if (find("margin").hidden) return;
    const named = questions.flatMap((one, index) => (one.contribution === null ? [] : [{ name: one.label, value: one.contribution, index }]));
    const rest = { name: "no name", value: margin.unnamed, index: null };
    const parts = [...named.sort((a, b) => Math.abs(b.value) - Math.abs(a.value)), rest].filter((one) => one.value !== 0);
    const length = parts.reduce((sum, one) => sum + Math.abs(one.value), 0) || 1;
    const piece = (one) => {
      const kind = one.index === null ? "unnamed" : one.value < 0 ? "against" : "for";
      const element = make("button", { type: "button", className: kind, title: `${one.name} ${logits(one.value)}`, textContent: one.name, tabIndex: -1 });
      element.style.flexBasis = `${(100 * Math.abs(one.value)) / length}%`;
      element.classList.toggle("thin", Math.abs(one.value) / length < 0.012 * (one.name.length + 2));
      if (one.index === null) element.disabled = true;
      else element.addEventListener("click", () => choose(one.index));
      return element;
    };
    const below = parts.filter((one) => one.value < 0).reverse().map(piece);
    const above = parts.filter((one) => one.value > 0).map(piece);
    find("margin-bar").replaceChildren(...below, make("i", { className: "zero" }), ...above);
    find("margin-words").textContent = marginWords(margin, target.short_name);
    const spoken = parts.map((one) => `${one.name} ${logits(one.value)}`);
    find("margin-bar").setAttribute("aria-label", `${list(spoken)}: together ${logits(margin.value)}`);
  }

  function marginWords(margin, name) {
    const share = margin.value > 0 && margin.named > 0 ? `, ${percent(Math.min(1, margin.named / margin.value))} of it` : "";
    const unplaced = margin.unplaced === 0 ? "" : ` (${logits(margin.unplaced)} of this lies in no part of the photo that the layer sees)`;
    const residual = Math.abs(margin.residual) < 0.005 ? "" : ` The sum misses ${logits(margin.residual)}.`;
    const discovered = margin.discovered === 0 ? "" : `; discovered ones: ${logits(margin.discovered)}`;
    const lead = `${margin.value < 0 ? "trails" : "leads"} ${margin.over} by ${Math.abs(margin.value).toFixed(2)}`;
    const opening = margin.over === null ? `${name}: ${logits(margin.value)} (${margin.unit})` : `${name} ${lead} (margin of the ${margin.unit})`;
    return `${opening}. Named concepts: ${logits(margin.named)}${share}${discovered}; without a name: ${logits(margin.unnamed)}${unplaced}.${residual}`;
  }

  function showRows() {
    for (const element of find("table").querySelectorAll("tbody tr")) {
      const index = Number(element.dataset.question);
      const item = image().questions[index];
      if (!isKnown(item)) continue;
      const spot = locationOf(item);
      const words = locationWords(spot);
      const { name, detail } = titleOf(item);
      Object.assign(element.querySelector(".what b"), { textContent: name, title: item.label });
      element.querySelector(".what small").textContent = detail;
      element.classList.toggle("chosen", index === state.question);
      element.querySelector("input").checked = index === state.question;
      const share = words === "nowhere" ? [] : [make("small", { textContent: `${percent(spot.area)} of the photo` })];
      const vague = item.place_vague && share.length > 0;
      element.querySelector(".where").replaceChildren(...(vague ? ["no clear place"] : [words, ...share]));
      element.querySelector("[data-name=score]").textContent = number(scoreOf(item));
      paintThumb(element.querySelector("canvas"), item);
    }
  }

  // ---------------------------------------------------------------- photos, settings, files

  function fillPhotos() {
    find("photos").hidden = report.images.length < 2;
    const note = report.answered_otherwise ?? "";
    Object.assign(find("answered-otherwise"), { textContent: `${note}; they are grey here.`, hidden: note === "" });
    const labels = report.images.map((one, i) => {
      const radio = make("input", { type: "radio", name: "photo", value: String(i), checked: i === 0 });
      radio.addEventListener("change", () => showImage(i));
      const parts = [radio, make("img", { src: one.photo, alt: "" }), make("span", { textContent: one.name })];
      if (!one.other_answer) return make("label", { title: one.name }, ...parts);
      const answer = make("small", { textContent: one.predicted.short_name });
      return make("label", { title: `${one.name}\n${one.other_answer}`, className: "elsewhere" }, ...parts, answer);
    });
    find("photo-list").replaceChildren(...labels);
  }

  function fillAgain() {
    find("command").textContent = image().command;
    find("command-line").hidden = image().command === "";
    const facts = { ...image().settings, ...report.versions };
    const entry = ([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: Array.isArray(value) ? value.join(", ") : String(value) })];
    find("settings").replaceChildren(...Object.entries(facts).flatMap(entry));
  }

  async function copyCommand() {
    try {
      await navigator.clipboard.writeText(image().command);
      say("Copied", "The command is copied.");
    } catch {
      getSelection().selectAllChildren(find("command"));
      const done = document.execCommand("copy");
      say(done ? "Copied" : "Selected", done ? "The command is copied." : "The command is selected; copy it with the keyboard.");
    }
  }

  function say(label, sentence) {
    find("copy").textContent = label;
    find("announcement").textContent = sentence;
    setTimeout(() => (find("copy").textContent = "Copy"), 2000);
  }

  function download() {
    const { colours, ...rest } = report;
    const numbers = { ...rest, images: rest.images.map(({ photo, ...one }) => one) };
    const address = URL.createObjectURL(new Blob([JSON.stringify(numbers, null, 1)], { type: "application/json" }));
    make("a", { href: address, download: "conceptlens.json" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  }

  // ---------------------------------------------------------------- theme

  const dark = matchMedia("(prefers-color-scheme: dark)");

  /** What was chosen in this tab, else what was chosen last in any; browsers write their storage some time later. */
  function remembered() {
    try {
      return history.state?.theme ?? localStorage.getItem("conceptlens.theme");
    } catch {
      return null; // some browsers refuse storage to files
    }
  }

  function showTheme() {
    const theme = remembered() ?? (dark.matches ? "dark" : "light");
    document.documentElement.dataset.theme = theme;
    if (find("theme")) find("theme").textContent = theme === "dark" ? "Light" : "Dark";
  }

  function toggleTheme() {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    history.replaceState({ theme }, "");
    try {
      localStorage.setItem("conceptlens.theme", theme);
    } catch {
      // it is then kept in this tab
    }
    showTheme();
  }

  // ---------------------------------------------------------------- together

  function refresh() {
    showStage();
    showRows();
  }

  function choose(index) {
    state.question = index;
    refresh();
  }

  async function showImage(index) {
    const first = report.images[index].questions.findIndex(isKnown);
    Object.assign(state, { image: index, question: Math.max(0, first), at: null });
    resetContrast();
    const { name, photo, width, height, target } = image();
    const shrink = Math.min(1, LONGEST / Math.max(width, height));
    Object.assign(find("overlay"), { width: Math.max(1, Math.round(width * shrink)), height: Math.max(1, Math.round(height * shrink)) });
    find("stage").style.setProperty("--ratio", String(width / height));
    Object.assign(find("photo"), { src: photo, alt: target === null ? `The photo ${name}` : `The photo ${name}, seen as ${target.short_name}` });
    fillAnswer();
    fillMargin();
    fillRandomLevel();
    fillTable();
    fillReferences();
    fillAgain();
    await find("photo").decode().catch(() => undefined);
    if (state.image === index) refresh();
    document.documentElement.dataset.shown = String(index);
  }

  function listen() {
    const stage = find("stage");
    const set = (name, value) => {
      state[name] = value;
      refresh();
    };
    const radios = (name, act) => document.getElementsByName(name).forEach((radio) => radio.addEventListener("change", () => act(radio.value)));
    for (const kind of ["pointermove", "pointerdown"]) stage.addEventListener(kind, point);
    for (const kind of ["pointerleave", "blur"]) stage.addEventListener(kind, () => ((state.at = null), showReadout()));
    stage.addEventListener("click", pick);
    stage.addEventListener("keydown", walk);
    find("opacity").addEventListener("input", (event) => ((state.opacity = event.target.value / 100), showStage()));
    find("gamma").addEventListener("input", (event) => set("gamma", Number(event.target.value)));
    find("reset").addEventListener("click", () => (resetContrast(), refresh()));
    radios("scale", (value) => set("shared", value === "shared"));
    radios("grid", (value) => set("cells", value === "cells"));
    find("copy").addEventListener("click", copyCommand);
    find("download").addEventListener("click", download);
    find("theme").addEventListener("click", toggleTheme);
    addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => (one.open = true)));
  }

  function start() {
    report = JSON.parse(find("data").textContent);
    find("opacity").value = 100 * state.opacity;
    find("made").textContent = made();
    Object.assign(find("undetected"), { textContent: (report.undetected ?? []).join("; "), hidden: !report.undetected?.length });
    find("main").hidden = false;
    showTheme();
    fillPhotos();
    listen();
    showImage(0);
  }

  function made() {
    const when = new Date(report.created);
    const date = Number.isNaN(when.valueOf()) ? report.created : when.toLocaleString("en-GB", { dateStyle: "long", timeStyle: "short" });
    const concepts = report.images.some(({ questions }) => questions.some((one) => one.kind === "concept"));
    const detected = report.images.every((one) => one.detections);
    const about = concepts ? "Which concepts the model sees, where, and how much they count" : detected ? "What the model detects, and where in the photo each detection rests" : "Where in the photo the scores of the model rest";
    return `${about} · ${date} · ConceptLens ${report.versions.conceptlens ?? ""}`;
  }

  dark.addEventListener("change", showTheme);
  showTheme();
  document.addEventListener("DOMContentLoaded", start);
  // For tests and for the curious: the map on the stage, its scale, and the state of the page.
  window.conceptlens = { state, grid: () => gridOf(question()), scale: () => scaleFor(question()) };
})();
