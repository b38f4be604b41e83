// The form, the docking that is watched, and the list of those before it. The report's dom.js and words.js come first.

const find = (selector) => document.querySelector(selector);
const form = find("#form");
const limit = Number(document.body.dataset.maxBytes);
const EVERY = 800; // milliseconds between questions after a docking
const OVERHEAD = 4000; // bytes of a form around its files
const STATES = { done: "Finished", failed: "Failed", stopped: "Stopped" };
const EXAMPLE = "CC(=O)Oc1ccccc1C(=O)O aspirin\nCn1c(=O)c2c(ncn2C)n(C)c1=O caffeine";
let watched = null;

function show(element, visible) {
  element.hidden = !visible;
}

function sentence(text) {
  return text[0].toUpperCase() + text.slice(1) + (/[.?!]$/.test(text) ? "" : ".");
}

async function ask(address, options) {
  const answer = await fetch(address, options);
  const told = answer.status === 204 ? {} : await answer.json().catch(() => ({}));
  return { ok: answer.ok, status: answer.status, told };
}

// ---- the form

function setErrors(errors) {
  for (const field of document.querySelectorAll("[data-field]")) {
    const reason = errors[field.dataset.field];
    const place = find(`#${field.dataset.field}-error`);
    field.classList.toggle("wrong", Boolean(reason));
    place.textContent = reason ? sentence(reason) : "";
    show(place, Boolean(reason));
    for (const input of field.querySelectorAll("input, textarea")) {
      if (input.closest("[data-field]") !== field) continue;
      if (reason) input.setAttribute("aria-invalid", "true");
      else input.removeAttribute("aria-invalid");
    }
    if (reason && field.tagName === "DETAILS") field.open = true;
  }
  const first = find(".wrong input:not([hidden]), .wrong textarea");
  if (first) first.focus();
}

function chosenSite() {
  return new FormData(form).get("site");
}

function showSite() {
  for (const part of document.querySelectorAll("[data-site]")) show(part, part.dataset.site.split(" ").includes(chosenSite()));
}

function missing(data) {
  const errors = {};
  const given = (name) => data.getAll(name).some((value) => (value instanceof File ? value.name : value.trim()));
  if (!given("protein")) errors.protein = "Choose a PDB or mmCIF file, or paste its text.";
  if (!given("ligand")) errors.ligand = "Write a SMILES, or choose a file.";
  if (data.get("site") === "ligand" && !given("pocket")) errors.pocket = "Choose the file of the known ligand.";
  if (["sphere", "box"].includes(data.get("site")) && !given("center")) errors.center = "Give three numbers.";
  if (data.get("site") === "box" && !given("size")) errors.size = "Give three numbers.";
  return errors;
}

function size(data) {
  let bytes = OVERHEAD;
  for (const value of data.values()) bytes += value instanceof File ? value.size : new Blob([value]).size;
  return bytes;
}

async function submit(event) {
  event.preventDefault();
  const said = find("#said"), button = find("#dock"), data = new FormData(form);
  said.textContent = "";
  const errors = missing(data);
  setErrors(errors);
  if (Object.keys(errors).length) return;
  if (size(data) > limit) {
    said.textContent = `The files are larger than ${document.body.dataset.maxMb} MB together.`;
    return;
  }
  button.disabled = true;
  button.textContent = "Reading the files \u2026";
  try {
    const { ok, told } = await ask("/jobs", { method: "POST", body: data });
    if (ok) {
      remember(told);
      location.hash = told.id;
    } else {
      setErrors(told.errors ?? {});
      if (!told.errors) said.textContent = sentence(told.error ?? "the server did not understand");
    }
  } catch {
    said.textContent = "The server does not answer. Is it still running?";
  } finally {
    button.disabled = false;
    button.textContent = "Dock";
  }
}

function acceptDrops() {
  for (const zone of document.querySelectorAll(".drop")) {
    const over = (on) => (event) => {
      event.preventDefault();
      zone.classList.toggle("over", on);
    };
    zone.addEventListener("dragover", over(true));
    zone.addEventListener("dragleave", over(false));
    zone.addEventListener("drop", (event) => {
      over(false)(event);
      if (event.dataTransfer.files.length) zone.querySelector("input").files = event.dataTransfer.files;
    });
  }
}

// ---- a docking

function stageOf(told) {
  if (told.state === "waiting") return told.ahead ? `waiting, ${told.ahead} ahead` : "waiting";
  const time = told.seconds < 90 ? `${Math.round(told.seconds)} s` : `${Math.round(told.seconds / 60)} min`;
  if (told.state !== "running") return `${STATES[told.state]} after ${time}`;
  const count = told.ligands > 1 ? `, ${told.results.length + told.failures.length} of ${told.ligands} ligands done` : "";
  return `${told.stage}, ${Math.round(100 * told.share)} %${count}, ${time}`;
}

function resultRow(row) {
  const flags = row.flags ? flagPills(row.flags.split(", ")) : ["none"];
  if (present(row.pb_valid)) flags.push(verdict(row.pb_valid, "passed PoseBusters", "failed PoseBusters"));
  return el("tr", {}, el("td", { class: "identity" }, row.id),
    el("td", { "data-label": "Confidence" }, bandBadge(row.confidence, row.confidence_band)),
    el("td", { "data-label": "Flags" }, flags), el("td", { "data-label": "Poses" }, row.poses));
}

function display(told) {
  const ended = !["waiting", "running"].includes(told.state);
  find("#docking-title").textContent = told.title;
  find("#stage").textContent = stageOf(told);
  const bar = find("#progress");
  show(bar, !ended);
  if (told.state === "running" && told.share === 0) bar.removeAttribute("value");
  else bar.value = told.share;
  find("#failed").textContent = told.error ? sentence(told.error) : "";
  show(find("#failed"), Boolean(told.error));
  find("#results tbody").replaceChildren(...told.results.map(resultRow));
  show(find("#results"), told.results.length > 0);
  const failures = find("#failures");
  failures.querySelector("summary").textContent = `${told.failures.length} not docked`;
  failures.querySelector("ul").replaceChildren(
    ...told.failures.map((failure) => el("li", {}, el("strong", {}, failure.id), ` (${failure.stage}): ${failure.reason}`)));
  show(failures, told.failures.length > 0);
  for (const name of ["report", "archive"]) {
    show(find(`#${name}`), Boolean(told[name]));
    if (told[name]) find(`#${name}`).href = told[name];
  }
  find("#delete").textContent = ended ? "Delete" : "Stop";
  const frame = find("#frame"), wide = matchMedia("(min-width: 50rem)").matches;
  if (told.report && told.results.length && wide && frame.getAttribute("src") !== told.report) frame.src = told.report;
  show(frame, Boolean(told.report && told.results.length && wide));
  show(find("#docking"), true);
  return ended;
}

async function watch(id) {
  watched = id;
  let ended = false;
  while (!ended && watched === id) {
    try {
      const { ok, told } = await ask(`/jobs/${encodeURIComponent(id)}`);
      if (watched !== id) return;
      if (ok) ended = display(told);
      else {
        show(find("#docking"), false);
        find("#said").textContent = sentence(told.error ?? "the docking is gone");
        forget(id);
        return;
      }
    } catch {
      find("#stage").textContent = "The server does not answer. Is it still running?";
    }
    if (!ended) await new Promise((resume) => setTimeout(resume, EVERY));
  }
}

async function remove() {
  const id = watched;
  await ask(`/jobs/${encodeURIComponent(id)}`, { method: "DELETE" }).catch(() => null);
  forget(id);
  location.hash = "";
}

function follow() {
  const id = location.hash.slice(1);
  watched = null;
  find("#said").textContent = "";
  show(find("#docking"), false);
  find("#frame").removeAttribute("src");
  if (!id) return;
  watch(id).then(() => {});
  find("#stage").textContent = "";
  find("#docking-title").textContent = "Docking";
  show(find("#docking"), true);
  find("#docking").focus();
}

// ---- dockings of this tab

function known() {
  try {
    return JSON.parse(sessionStorage.getItem("dockings") ?? "[]");
  } catch {
    return [];
  }
}

function keep(dockings) {
  try {
    sessionStorage.setItem("dockings", JSON.stringify(dockings));
  } catch {
    // Without storage the list is lost with the tab's next page; the address still leads to the docking.
  }
  const links = dockings.map(({ id, title }) => el("li", {}, el("a", { href: `#${id}` }, title)));
  find("#earlier ul").replaceChildren(...links);
  show(find("#earlier"), dockings.length > 0);
}

function remember({ id, title }) {
  keep([{ id, title }, ...known()]);
}

function forget(id) {
  keep(known().filter((docking) => docking.id !== id));
}

form.addEventListener("submit", submit);
form.addEventListener("change", showSite);
find("#example").addEventListener("click", () => {
  find("#ligand").value = EXAMPLE;
  find("#ligand").focus();
});
find("#delete").addEventListener("click", remove);
addEventListener("hashchange", follow);
acceptDrops();
showSite();
keep(known());
follow();
