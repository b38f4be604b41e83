// The 3-D view. Without WebGL every method does nothing and the place says why it is empty.

const NEAR = 4.5; // Angstrom: residues that count as the pocket of a pose
const SURFACE_NEAR = 9; // Angstrom: the surface is drawn this far around the pose
const OPENING_NEAR = 14; // Angstrom: the protein around a pose that should not hide it
const KEEP_VIEW = 4; // Angstrom: poses nearer to each other than this do not move the camera
const ZOOM_NEAR = 4; // Angstrom: what a latent is shown with
const TURN = window.matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 400; // milliseconds of a camera move

function hasWebGL() {
  const canvas = document.createElement("canvas");
  return Boolean(canvas.getContext("webgl2") ?? canvas.getContext("webgl"));
}

const centre = (atoms) => ["x", "y", "z"].map((axis) => atoms.reduce((sum, atom) => sum + atom[axis], 0) / atoms.length);
const apart = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]);
const place = (atom) => [atom.x, atom.y, atom.z];
const residueKey = (atom) => [atom.chain, atom.resi, atom.icode, atom.resn].join(" ");

class Scene {
  constructor(box, options) {
    this.box = box;
    this.options = options; // {all, ribbon, surface, pocket, names}: what is drawn besides the pose
    this.viewer = hasWebGL() ? $3Dmol.createViewer(box, { backgroundColor: "white", antialias: true }) : null;
    if (!this.viewer) {
      box.append(el("div", { class: "lost", role: "alert" },
        el("strong", {}, "No 3-D view: this browser has no WebGL."),
        el("p", {}, "Everything else on this page works. Switch on hardware acceleration, use another browser, or open " +
          "the protein and the SD files in a molecular viewer.")));
      return;
    }
    $3Dmol.setSyncSurface(true); // no worker threads, which pages from a disk may not start everywhere
    new ResizeObserver(() => this.viewer.resize()).observe(box);
    isDark.addEventListener("change", () => this.draw());
  }

  load(receptor, content) {
    if (!this.viewer) return;
    this.viewer.removeAllModels();
    this.content = content;
    this.protein = receptor === null ? null : this.viewer.addModel(receptor, "pdb");
    this.ligands = content.molblocks.map((block) => block && this.viewer.addModel(block, "sdf", { keepH: true }));
    this.finals = this.ligands.map((ligand) => ligand && ligand.selectedAtoms({}).map(place));
    this.view = null;
    this.pose = null;
  }

  show(pose) {
    if (!this.viewer) return;
    this.move(null, false);
    this.pose = pose;
    this.draw();
    const here = this.ligand && centre(this.ligand.selectedAtoms({}));
    if (!this.view) {
      this.faceOpening();
      this.zoomPose(0);
    }
    else if (here && apart(this.view, here) > KEEP_VIEW) this.zoomPose();
  }

  get ligand() {
    return !this.viewer || this.pose === null ? null : this.ligands[this.pose];
  }

  // Selection of the residues of the protein with an atom within so many Angstrom of the pose.
  near(distance) {
    const atoms = this.ligand.selectedAtoms({}).map(place);
    const [low, high] = [Math.min, Math.max].map((end) => [0, 1, 2].map((axis) => end(...atoms.map((atom) => atom[axis]))));
    const keys = new Set();
    for (const atom of this.protein.selectedAtoms({})) {
      const here = place(atom);
      if (here.some((value, axis) => value < low[axis] - distance || value > high[axis] + distance)) continue;
      if (atoms.some((other) => apart(here, other) < distance)) keys.add(residueKey(atom));
    }
    return { model: this.protein, predicate: (atom) => keys.has(residueKey(atom)) };
  }

  colours() {
    const dark = isDark.matches;
    const elements = $3Dmol.elementColors.Jmol ?? $3Dmol.elementColors.defaultColors;
    const carbon = (C) => ({ prop: "elem", map: { ...elements, C, H: dark ? "#cfd8e0" : "#b8c2cc" } });
    return {
      ground: getComputedStyle(this.box).backgroundColor,
      cartoon: dark ? "#a9bfd3" : "#bccad6",
      pocket: carbon(dark ? "#9fb0c0" : "#8193a5"),
      ligand: carbon(dark ? "#2fc7b5" : "#0a9c8b"),
      other: dark ? "#8fa3b5" : "#7b8b9a",
      latent: carbon,
    };
  }

  draw() {
    if (!this.viewer || this.pose === null) return;
    const colour = this.colours();
    this.viewer.setBackgroundColor(colour.ground);
    this.viewer.removeAllSurfaces();
    if (this.protein) {
      const ribbon = this.options.ribbon ? { cartoon: { color: colour.cartoon, opacity: 0.7 } } : {};
      this.viewer.setStyle({ model: this.protein }, ribbon);
      if (this.ligand && this.options.pocket) {
        this.viewer.addStyle(this.near(NEAR), { stick: { radius: 0.1, colorscheme: colour.pocket } });
      }
      for (const latent of this.latents("residue")) {
        const scheme = colour.latent(slotColour(latent.slot));
        this.viewer.addStyle(this.residue(latent), { stick: { radius: 0.2, colorscheme: scheme } });
      }
      if (this.ligand && this.options.surface) this.drawSurface(colour);
    }
    this.drawLigands(colour);
    this.drawMarks();
    this.viewer.render();
  }

  drawLigands(colour = this.colours()) {
    this.ligands.forEach((ligand, pose) => {
      if (!ligand) return;
      const faint = this.options.all ? { stick: { radius: 0.08, color: colour.other, opacity: 0.55 } } : {};
      const bright = { stick: { radius: 0.19, colorscheme: colour.ligand } };
      ligand.setStyle({}, pose === this.pose ? bright : faint);
    });
  }

  drawSurface(colour) {
    const look = { opacity: 0.75, color: colour.cartoon };
    this.viewer.addSurface($3Dmol.SurfaceType.SES, look, this.near(SURFACE_NEAR), this.near(SURFACE_NEAR + 4));
  }

  drawMarks() {
    this.viewer.removeAllShapes();
    this.viewer.removeAllLabels();
    if (this.options.names && this.ligand && this.protein) {
      const marked = this.latents("residue").map((latent) => this.residue(latent));
      for (const atom of this.protein.selectedAtoms({ ...this.near(NEAR), atom: "CA" })) {
        if (marked.some((residue) => residue.predicate(atom))) continue; // has its label below
        this.label(`${atom.resn} ${atom.resi}${(atom.icode ?? "").trim()}`, place(atom), "#3b4754", 11);
      }
    }
    for (const latent of this.latents()) {
      const point = this.pointOf(latent);
      if (!point) continue;
      const colour = slotColour(latent.slot);
      const [x, y, z] = point;
      this.viewer.addSphere({ center: { x, y, z }, radius: latent.kind === "atom" ? 0.75 : 1.0, color: colour, alpha: 0.45 });
      this.label(`${latent.slot}  ${latent.name}`, point, colour, 13, { x: 0, y: 32 });
    }
  }

  label(text, [x, y, z], backgroundColor, fontSize, screenOffset = { x: 0, y: 0 }) {
    this.viewer.addLabel(text, {
      position: { x, y, z }, backgroundColor, backgroundOpacity: 0.88, fontColor: "white", fontSize, screenOffset,
      alignment: "bottomCenter", inFront: true,
    });
  }

  latents(kind = null) {
    const all = this.content.record.poses[this.pose]?.latents ?? [];
    return all.filter((latent) => latent.point && (kind === null || latent.kind === kind));
  }

  // Residues are found by their place: letters of chains in the PDB file can differ from the names of the chains.
  residue(latent) {
    let best = null;
    for (const atom of this.protein.selectedAtoms({})) {
      const distance = apart(place(atom), latent.point);
      if (!best || distance < best.distance) best = { atom, distance };
    }
    const key = residueKey(best.atom);
    return { model: this.protein, predicate: (atom) => residueKey(atom) === key };
  }

  pointOf(latent) {
    if (latent.kind !== "atom") return latent.point;
    const atom = this.ligand?.selectedAtoms({})[latent.atom];
    return atom ? place(atom) : latent.point;
  }

  // Turn the view so that the pose lies before the protein around it, not behind: d, from the middle of the atoms
  // nearby to that of the pose, comes to point at the viewer (the z axis) by the shortest turn.
  faceOpening() {
    if (!this.ligand || !this.protein) return;
    const here = centre(this.ligand.selectedAtoms({}));
    const around = this.protein.selectedAtoms({}).filter((atom) => apart(place(atom), here) < OPENING_NEAR);
    if (!around.length) return;
    const middle = centre(around);
    const [x, y, z] = here.map((value, axis) => (value - middle[axis]) / apart(here, middle));
    const length = Math.hypot(y, x, 1 + z);
    if (!(length > 1e-3)) return; // already along the axis, or in the very middle
    this.viewer.setView([...this.viewer.getView().slice(0, 4), y / length, -x / length, 0, (1 + z) / length]);
  }

  zoomPose(time = TURN) {
    if (!this.ligand) return this.zoomProtein(time);
    this.view = centre(this.ligand.selectedAtoms({}));
    const around = (atom) => apart(place(atom), this.view) < reach;
    const reach = 2 + Math.max(...this.ligand.selectedAtoms({}).map((atom) => apart(place(atom), this.view)));
    this.viewer.zoomTo({ predicate: around }, time);
  }

  zoomProtein(time = TURN) {
    if (!this.viewer) return;
    this.view = null;
    this.viewer.zoomTo(this.protein ? { model: this.protein } : {}, time);
  }

  zoomLatent(latent) {
    if (!this.viewer || !latent.point) return;
    const point = this.pointOf(latent);
    this.view = point;
    this.viewer.zoomTo({ predicate: (atom) => apart(place(atom), point) < ZOOM_NEAR }, TURN);
  }

  // Whether frames of a trajectory have the heavy atoms of the pose.
  fits(frames) {
    return this.ligand && frames[0].length === 3 * this.ligand.selectedAtoms({}).filter((atom) => atom.elem !== "H").length;
  }

  // The ligand at one step of its trajectory (x, y, z of its heavy atoms after each other), or back in its pose (null).
  move(frame, redraw = true) {
    const ligand = this.viewer && this.ligand;
    if (!ligand) return;
    const atoms = ligand.selectedAtoms({});
    if (frame === null) atoms.forEach((atom, i) => ([atom.x, atom.y, atom.z] = this.finals[this.pose][i]));
    else {
      const heavy = atoms.filter((atom) => atom.elem !== "H");
      heavy.forEach((atom, i) => ([atom.x, atom.y, atom.z] = frame.slice(3 * i, 3 * i + 3)));
    }
    if (!redraw) return;
    this.drawLigands();
    this.drawMarks();
    this.viewer.render();
  }
}
