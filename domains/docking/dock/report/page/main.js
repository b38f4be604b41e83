// The page: header, table, failures, and the complex that is chosen.

const OPTIONS = { all: false, ribbon: true, surface: false, pocket: true, names: false };
const OPTION_NAMES = { all: "All poses", ribbon: "Ribbon", surface: "Surface", pocket: "Pocket", names: "Residue names" };
let stage = null; // the 3-D view, its player and the parts around them, made once

function makeStage() {
  const box = el("div", { class: "scene", tabindex: 0, role: "group" });
  byId("detail").replaceChildren(box); // the view takes its size from the page
  const scene = new Scene(box, OPTIONS);
  const player = new Player(scene);
  const button = (text, click) => el("button", { type: "button", click }, text);
  const boxes = Object.entries(OPTION_NAMES).map(([name, title]) => {
    const change = (event) => { OPTIONS[name] = event.target.checked; scene.draw(); };
    return el("label", {}, el("input", { type: "checkbox", checked: OPTIONS[name], change }), title);
  });
  const tools = el("div", { class: "tools", hidden: !scene.viewer },
    el("div", { class: "group" }, button("Zoom to pose", () => scene.zoomPose()), button("Whole protein", () => scene.zoomProtein())),
    boxes);
  const stage = { scene, player, box, view: el("div", { class: "card view" }, box, tools, player.element) };
  box.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    stage.step(by);
  });
  return stage;
}

function showComplex(row) {
  const target = byId("detail");
  stage?.player.stop();
  if (row.entry === null) {
    target.replaceChildren(el("div", { class: "heading" }, el("h2", {}, row.id), el("span", { class: "quiet" }, row.ligand)),
      el("p", { class: "note" }, "This complex is beyond the limit of what this page shows in 3-D. Its poses are in ",
        el("a", { href: row.href }, "poses.sdf"), "."));
    return;
  }
  const content = embedded(`complex-${row.entry}`);
  const { record } = content;
  stage ??= makeStage();
  const [latents, cards] = [el("div"), el("div", { class: "cards" })];
  const list = poseList(record.poses, choose);
  target.replaceChildren(
    el("div", { class: "heading" }, el("h2", {}, record.id), el("span", { class: "quiet" },
      [record.ligand?.name, plural(record.poses.length, "pose")].filter(Boolean).join(" \u00b7 "))),
    el("div", { class: "stage" }, stage.view, el("div", { class: "side" }, list, latents)), cards);
  stage.scene.load(content.receptor === null ? null : embedded(`receptor-${content.receptor}`), content);

  function choose(i) {
    const pose = record.poses[i];
    const zoom = (latent) => stage.scene.zoomLatent(latent);
    list.querySelectorAll("input")[i].checked = true;
    stage.box.setAttribute("aria-label", `3-D view of pose ${pose.rank} of ${record.id}; arrow keys switch poses`);
    stage.step = (by) => choose((i + by + record.poses.length) % record.poses.length);
    latents.replaceChildren(latentsCard(pose, content.drawing, zoom));
    const parts = [poseCard(pose), minimizedCard(pose), rescoresCard(pose), notesCard(record), inputCard(record),
      filesCard(content.files), checksCard(pose)];
    cards.replaceChildren(...parts.filter(Boolean));
    stage.scene.show(i);
    stage.player.load(content.trajectories[i], pose.minimized && !pose.minimized.reason);
  }

  if (record.poses.length) choose(0);
}

function showRun(index) {
  const { rows, failed, failures, facts, files, limit, version } = index;
  byId("counts").append(`${plural(rows.length, "complex", "complexes")} docked, ${failed} failed`);
  byId("facts").append(...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  byId("made").textContent = `Written by DisCo-Diff ${version}. Everything is in this one file; it loads nothing from the network.`;
  const unranked = rows.length > 0 && rows.every((row) => !present(row.confidence));
  byId("confidence-note").textContent = unranked ? `${NOT_RANKED} ${ABOUT_CONFIDENCE}` : ABOUT_CONFIDENCE;
  byId("limit-note").hidden = rows.length <= limit;
  byId("limit-note").textContent =
    `${rows.length} complexes are listed; ` + (unranked ? `the first ${limit}` : `the ${limit} with the best confidence of rank 1`) +
    (limit === 1 ? " is" : " are") + " shown with poses and 3-D. The others are in their SD files.";
  byId("run-files").append(...files.map(([name, href]) => el("a", { href }, name)));
  const list = byId("failures");
  list.hidden = failed === 0;
  list.open = rows.length === 0;
  list.querySelector("summary").textContent =
    `${plural(failed, "input")} failed` + (failed > failures.length ? `, the first ${failures.length} are listed` : "");
  list.querySelector("ul").append(...failures.map((failure) => el("li", {}, el("strong", {}, failure.id), " ",
    el("span", { class: "quiet small" }, failure.ligand), el("div", {}, failure.reason, " ",
      el("span", { class: "quiet small" }, failure.stage)))));
}

function main() {
  const index = embedded("index");
  showRun(index);
  if (!index.rows.length) { byId("overview").hidden = true; return; }
  const choose = (row, scroll = true) => {
    table.mark(row);
    history.replaceState(null, "", "#" + encodeURIComponent(row.id));
    showComplex(row);
    if (scroll) byId("detail").scrollIntoView({ block: "nearest" });
  };
  const table = new ComplexTable(index.rows, choose);
  const wanted = index.rows.find((row) => location.hash === "#" + encodeURIComponent(row.id));
  choose(wanted ?? table.matching()[0], false);
}

main();
