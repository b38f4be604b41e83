"""How docked poses are judged: symmetry-corrected RMSD, contacts, PoseBusters, the table of a test set."""
