// What is said of one pose and its complex, outside the 3-D view.

function card(title, ...children) {
  return el("section", { class: "card" }, el("h3", {}, title), ...children);
}

function measures(pairs) {
  const known = pairs.filter(([, value]) => present(value));
  return el("dl", { class: "measures" }, known.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

function poseCard(pose) {
  const unit = (value, name, digits) => (present(value) ? `${number(value, digits)} ${name}` : null);
  const flags = pose.flags ?? [];
  const seen = present(pose.strain) ? "nothing wrong was seen" : "nothing wrong was seen, and the strain is not known";
  return card(`Pose ${pose.rank}`,
    measures([
      ...(pose.site ? [["Predicted site", `${pose.site.rank} (probability ${pose.site.probability})`]] : []),
      ["Confidence (not an affinity)", present(pose.confidence) ? bandBadge(pose.confidence, pose.confidence_band) : "none"],
      ["Nearest protein atom", unit(pose.protein_distance, "\u00c5", 2)],
      ["Ligand atoms that overlap the protein", pose.clashes],
      ["Nearest atoms within the ligand", unit(pose.self_distance, "\u00c5", 2)],
      ["Strain", unit(pose.strain, "kcal/mol", 1) ?? "not known"],
      ["Stereochemistry", pose.stereo],
      ["Sample", pose.sample],
    ]),
    flags.length
      ? el("ul", {}, flags.map((flag) => el("li", {}, flagPills([flag]), " ", FLAGS[flag] ?? "")))
      : el("p", { class: "small quiet" }, `No flags: ${seen}. That does not prove the pose right.`),
    el("p", { class: "small quiet" }, ABOUT_SURROUNDINGS));
}

function checksCard(pose) {
  const checks = Object.entries(pose.checks ?? {});
  if (!checks.length && !present(pose.pb_valid)) return null;
  const failed = checks.filter(([, passed]) => !passed);
  const rows = [...failed, ...checks.filter(([, passed]) => passed)]
    .map(([name, passed]) => el("tr", {}, el("th", { scope: "row" }, checkName(name)), el("td", {}, verdict(passed))));
  const summary = failed.length
    ? `${failed.length} of ${checks.length} checks failed: this pose is physically doubtful.`
    : `All ${checks.length} checks passed: physically plausible, which does not mean correct.`;
  return card("Pose checks (PoseBusters)", el("p", { class: "small" }, summary),
    el("table", { class: "checks" }, el("tbody", {}, rows)));
}

function minimizedCard(pose) {
  const done = pose.minimized;
  if (!done) return null;
  if (done.reason) return card("Minimisation", el("p", {}, `Left as sampled: ${done.reason}`));
  return card("Minimisation",
    measures([
      ["Force field", done.force_field],
      ["Energy before", present(done.before) ? `${number(done.before, 1)} kcal/mol` : null],
      ["Energy after", present(done.after) ? `${number(done.after, 1)} kcal/mol` : null],
      ["Moved (RMSD)", present(done.moved) ? `${number(done.moved)} \u00c5` : null],
    ]),
    el("p", { class: "small quiet" }, "The pose shown and written is the minimised one. These energies tell how much was " +
      "relieved; they are not binding energies."));
}

function rescoresCard(pose) {
  const scores = Object.entries(pose.rescores ?? {});
  if (!scores.length) return null;
  return card("Rescores", scores.map(([name, value]) => {
    const { name: title, unit, digits, about } = rescore(name);
    const shown = present(value) ? `${number(value, digits)} ${unit}` : "could not be computed";
    return el("div", { class: "score" },
      el("div", {}, el("strong", {}, title), el("span", {}, shown)), el("p", { class: "small quiet" }, about));
  }));
}

function notesCard(record) {
  const groups = [["Protein", record.protein?.notes], ["Ligand", record.ligand?.notes], ["Run", record.notes]];
  const said = groups.filter(([, notes]) => notes?.length);
  if (!said.length) return card("Notes", el("p", { class: "small quiet" }, "Nothing in the input was changed or left out."));
  return card("Notes: what was changed or is doubtful", said.map(([title, notes]) =>
    el("div", { class: "small" }, el("strong", {}, title), el("ul", {}, notes.map((note) => el("li", {}, note))))));
}

function inputCard(record) {
  const { protein = {}, ligand = {} } = record;
  return card("Input",
    measures([
      ["Protein", protein.source], ["Residues", protein.residues],
      ["Ligand", ligand.source], ["Heavy atoms", ligand.heavy_atoms], ["Rotatable bonds", ligand.rotatable_bonds],
      ["Pocket", record.pocket ?? "none given: the whole protein was searched"],
      ["Time", present(record.seconds) ? `${number(record.seconds, 1)} s` : null],
    ]),
    ligand.smiles && el("p", { class: "small" }, el("code", {}, ligand.smiles)));
}

function filesCard(files) {
  return card("Files", el("ul", { class: "files" }, files.map(([label, href]) => el("li", {}, el("a", { href }, label)))));
}

function poseList(poses, choose) {
  const ranked = poses.some((pose) => present(pose.confidence));
  const lines = poses.map((pose, i) => el("label", { class: "pose" },
    el("input", { type: "radio", name: "pose", value: i, change: () => choose(i) }),
    el("strong", {}, pose.rank), bandBadge(pose.confidence, pose.confidence_band),
    el("span", {}, flagPills(pose.flags),
      present(pose.pb_valid) && verdict(pose.pb_valid, "PB-valid", "PB-invalid"))));
  return el("div", { class: "card" },
    el("fieldset", {}, el("legend", {}, ranked ? "Poses, best confidence first" : "Poses, not ranked"),
      !ranked && el("p", { class: "small quiet" }, NOT_RANKED), el("div", { class: "poses" }, lines)));
}

function latentsCard(pose, drawing, zoom) {
  const latents = pose.latents ?? [];
  const chips = latents.map((latent) => {
    const chip = el("button", { type: "button", class: "chip", "data-slot": latent.slot, click: () => zoom(latent),
      disabled: !latent.point, title: latent.point ? "Zoom to it" : null }, latent.name ?? `slot ${latent.slot}`);
    chip.style.setProperty("--slot", slotColour(latent.slot));
    return chip;
  });
  return card(latents.length ? "What the latents point at" : "Ligand",
    latents.length > 0 && el("div", { class: "chips" }, chips),
    latents.some((latent) => latent.point) && el("p", { class: "small quiet" }, "Each discrete latent picks one residue or ligand atom before " +
      "the pose is made. They show what steered the pose; they are no measured contacts."),
    drawing ? ligandDrawing(drawing, latents, zoom) : el("p", { class: "small quiet" }, "No drawing: RDKit cannot draw this ligand."));
}

function ligandDrawing(drawing, latents, zoom) {
  const { width, height, points } = drawing;
  const rings = latents.filter((latent) => latent.kind === "atom" && points[latent.atom]).map((latent) => {
    const [cx, cy] = points[latent.atom];
    const colour = slotColour(latent.slot);
    const ring = svg("circle", { cx, cy, r: 15, stroke: colour, fill: colour }, svg("title", {}, latent.name));
    ring.addEventListener("click", () => zoom(latent));
    return ring;
  });
  const names = latents.filter((latent) => latent.kind === "atom").map((latent) => latent.name);
  const alt = `2-D drawing of the ligand${names.length ? `, marked: ${names.join(", ")}` : ""}`;
  // An SVG in an <img> cannot run scripts.
  const picture = el("img", { alt, width, height, src: "data:image/svg+xml;charset=utf-8," + encodeURIComponent(drawing.svg) });
  const marks = svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, ...rings);
  return el("div", { class: "drawing" }, picture, marks);
}
