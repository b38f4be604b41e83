// What names and figures mean, in words.

const SLOT_COLOURS = ["#b45f00", "#8b3fc2", "#1f6fd6", "#c2255c", "#4d7c0f", "#0e7490"];
const slotColour = (slot) => SLOT_COLOURS[(slot - 1) % SLOT_COLOURS.length];

const ABOUT_CONFIDENCE =
  "Confidence ranks the poses of one complex: how sure the model is that a pose is near the true one. " +
  "It is not an affinity. High: above 0; moderate: \u22121.5 to 0; low: below.";
const NOT_RANKED =
  "This model has no confidence: its poses are not ranked. Rank 1 is only the first, not the best.";

const FLAGS = {
  "not-finite": "Coordinates are not finite: the networks overflowed.",
  apart: "No atom of the protein within 5 \u00c5: the ligand touches nothing.",
  clash: "Atoms of the ligand overlap the protein.",
  "self-clash": "Atoms of the ligand overlap each other.",
  strain: "The ligand is strained: its conformation costs much energy.",
  stereo: "The stereochemistry is not that of the input.",
};

const ABOUT_SURROUNDINGS =
  "Clashes, checks, minimisation and rescores see the protein alone: no waters, metals, cofactors or nucleic acids.";

const CHECKS = {
  mol_pred_loaded: "Pose can be read",
  mol_true_loaded: "Reference can be read",
  mol_cond_loaded: "Protein can be read",
  sanitization: "Chemically sane (RDKit)",
  inchi_convertible: "Has an InChI",
  all_atoms_connected: "All atoms connected",
  no_radicals: "No radicals",
  bond_lengths: "Bond lengths",
  bond_angles: "Bond angles",
  internal_steric_clash: "No clash within the ligand",
  aromatic_ring_flatness: "Aromatic rings flat",
  "non-aromatic_ring_non-flatness": "Other rings not flat",
  double_bond_flatness: "Double bonds flat",
  internal_energy: "Internal energy",
  "protein-ligand_maximum_distance": "Near the protein",
  minimum_distance_to_protein: "Distance to the protein",
  minimum_distance_to_organic_cofactors: "Distance to organic cofactors",
  minimum_distance_to_inorganic_cofactors: "Distance to inorganic cofactors",
  minimum_distance_to_waters: "Distance to waters",
  volume_overlap_with_protein: "Overlap with the protein",
  volume_overlap_with_organic_cofactors: "Overlap with organic cofactors",
  volume_overlap_with_inorganic_cofactors: "Overlap with inorganic cofactors",
  volume_overlap_with_waters: "Overlap with waters",
};

const RESCORES = {
  vina: {
    name: "Vina", unit: "kcal/mol", digits: 1,
    about: "Empirical scoring function of AutoDock Vina; lower is better. It orders poses and, roughly, compounds. " +
      "It is not a measured binding energy, and it grows with the size of the ligand.",
  },
  gnina_cnn_score: {
    name: "gnina CNN score", unit: "", digits: 2,
    about: "gnina's network: from 0 to 1, how likely the pose is within 2 \u00c5 of the true one. It says nothing of affinity.",
  },
  gnina_cnn_affinity: {
    name: "gnina CNN affinity", unit: "pK", digits: 1,
    about: "gnina's network: estimated affinity, \u2212log10 of Kd or Ki in mol/l; higher is tighter. It means something " +
      "only if the pose is right, and even then it is often off by more than one unit.",
  },
};

const words = (name) => name.replaceAll("_", " ");
const checkName = (name) => CHECKS[name] ?? words(name);
const rescore = (name) => RESCORES[name] ?? { name: words(name), unit: "", digits: 2, about: "" };

function bandBadge(confidence, band) {
  if (!present(confidence)) return el("span", { class: "quiet" }, "not ranked");
  const known = ["high", "moderate", "low"].includes(band) ? band : "";
  return el("span", { class: `band ${known}` }, number(confidence), " ", el("b", {}, band ?? ""));
}

function flagPills(flags) {
  return (flags ?? []).map((flag) => el("span", { class: "pill", title: FLAGS[flag] }, flag));
}

function verdict(passed, good = "passed", bad = "failed") {
  return el("span", { class: `tick ${passed ? "passed" : "failed"}` }, passed ? `\u2713 ${good}` : `\u2717 ${bad}`);
}
