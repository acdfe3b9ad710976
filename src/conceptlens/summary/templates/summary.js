"use strict";
// The list of photos: their numbers lie in files beside the page, and of their pictures only those in view are loaded.

(() => {
  const PER_PAGE = 60;
  const find = (id) => document.getElementById(id);
  const [NAME, ANSWER, TRUE, PROBABILITY, SCENE, PICTURE, CONCEPTS] = [0, 1, 2, 3, 4, 5, 6];
  const trusted = window.trustedTypes?.createPolicy("conceptlens", { createScriptURL: (url) => url });
  const photos = [];
  const state = { page: 0, shown: [] };
  let classes = [];

  function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  const minus = (text) => text.replaceAll("-", "−");
  const className = (number) => classes[number] ?? "no class";
  const isWrong = (row) => row[TRUE] >= 0 && row[TRUE] !== row[ANSWER];

  const ORDERS = {
    name: (a, b) => (a[NAME] < b[NAME] ? -1 : 1),
    unsure: (a, b) => (a[PROBABILITY] ?? 2) - (b[PROBABILITY] ?? 2),
    sure: (a, b) => (b[PROBABILITY] ?? -1) - (a[PROBABILITY] ?? -1),
    scene: (a, b) => (b[SCENE] ?? 0) - (a[SCENE] ?? 0),
    answer: (a, b) => className(a[ANSWER]).localeCompare(className(b[ANSWER])) || ORDERS.name(a, b),
  };

  window.conceptlensPhotos = (part) => {
    if (part.classes) classes = part.classes;
    part.rows.forEach((row, i) => (photos[part.start + i] = Object.assign(row, { at: part.start + i })));
  };

  function load(chunk, chunks) {
    if (chunk === chunks) return begin();
    const url = `photos/numbers-${String(chunk).padStart(4, "0")}.js`;
    const script = document.createElement("script");
    script.onload = () => load(chunk + 1, chunks);
    script.onerror = () => (find("count").textContent = "The folder photos is not beside this page, so there is no list.");
    script.src = trusted ? trusted.createScriptURL(url) : url;
    document.head.append(script);
  }

  function begin() {
    const answers = [...new Set(photos.map((row) => row[ANSWER]))].sort((a, b) => className(a).localeCompare(className(b)));
    find("class").append(...answers.map((number) => make("option", { value: String(number), textContent: className(number) })));
    find("wrong-choice").hidden = !photos.some((row) => row[TRUE] >= 0);
    for (const id of ["search", "class", "order", "wrong", "scene"]) find(id).addEventListener("input", choose);
    find("before").addEventListener("click", () => turn(-1));
    find("after").addEventListener("click", () => turn(1));
    find("bar").hidden = false;
    choose();
  }

  function choose() {
    const words = find("search").value.trim().toLowerCase();
    const answer = find("class").value;
    const fits = (row) =>
      (answer === "" || row[ANSWER] === Number(answer)) &&
      (!find("wrong").checked || isWrong(row)) &&
      (!find("scene").checked || row[SCENE] > 0) &&
      (words === "" || textOf(row).includes(words));
    state.shown = photos.filter(fits).sort(ORDERS[find("order").value]);
    state.page = 0;
    show();
  }

  const textOf = (row) =>
    [row[NAME], className(row[ANSWER]), row[TRUE] >= 0 ? className(row[TRUE]) : "", ...row[CONCEPTS].map((one) => one[0])].join(" ").toLowerCase();

  function turn(by) {
    state.page += by;
    show();
    find("photos-title").scrollIntoView();
  }

  function show() {
    const start = state.page * PER_PAGE;
    const part = state.shown.slice(start, start + PER_PAGE);
    find("list").replaceChildren(...part.map(tile));
    const range = part.length ? `${start + 1}–${start + part.length} of ` : "";
    const all = state.shown.length === photos.length ? "" : `, ${photos.length} in all`;
    find("count").textContent = `${range}${state.shown.length} photo${state.shown.length === 1 ? "" : "s"}${all}`;
    find("before").disabled = state.page === 0;
    find("after").disabled = start + PER_PAGE >= state.shown.length;
  }

  function tile(row) {
    const folder = String(Math.floor(row.at / 1000)).padStart(4, "0");
    const source = `photos/${folder}/${String(row.at).padStart(7, "0")}.jpg`;
    const picture = row[PICTURE] ? make("img", { src: source, alt: "", loading: "lazy", title: row[NAME] }) : make("span", { className: "none" });
    const sure = row[PROBABILITY] === null ? "" : ` ${Math.round(100 * row[PROBABILITY])}%`;
    const lines = [make("b", { textContent: className(row[ANSWER]) + sure })];
    if (isWrong(row)) lines.push(make("span", { textContent: `labelled ${className(row[TRUE])}` }));
    const concepts = row[CONCEPTS].map(([label, value]) => `${label} +${minus(value.toPrecision(2))}`).join(", ");
    lines.push(make("span", { textContent: concepts || "no concept speaks for it" }), make("span", { textContent: row[NAME] }));
    return make("li", { className: isWrong(row) ? "wrong" : "" }, picture, ...lines);
  }

  document.addEventListener("DOMContentLoaded", () => load(0, Number(find("bar").dataset.chunks)));
})();
