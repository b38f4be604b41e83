"""Published figures, which stand beside the table and not in it."""

from dataclasses import dataclass

MARK = "published, trained on 16,379 complexes that share receptors with the test set; 363 test complexes"
NOTES = (
    "Not the complexes of this table, and not its training data: no line here can be compared with a line above as like"
    " with like. Search methods (GNINA, SMINA, GLIDE, Uni-Dock, Surflex-Dock) are not trained on these complexes.",
    "Nearest to a fair comparison is the column of the unseen receptors.",
    "Sources: DisCo-Diff, Table 4 (https://arxiv.org/abs/2407.03300); DiffDock (https://arxiv.org/abs/2210.01776) for "
    "medians and top-5; with the pocket given, Uni-Dock with the true pocket, and Surflex-Dock and Glide as "
    "re-analysed by Jain et al.",
)


@dataclass(frozen=True)
class Published:
    """Top-1 and top-5 success (% RMSD < 2 A), top-1 on unseen receptors, median top-1 RMSD (A), seconds."""

    method: str
    mode: str
    top1: float
    median: float | None = None
    top5: float | None = None
    unseen: float | None = None
    seconds: float | None = None


PUBLISHED = (
    Published("GNINA", "blind", 22.9, 7.7, 32.9, 14.0, 127),
    Published("SMINA", "blind", 18.7, 7.1, 29.3, 14.0, 126),
    Published("GLIDE", "blind", 21.8, 9.3, None, 19.6, 1405),
    Published("EquiBind", "blind", 5.5, 6.2, None, 0.7, 0.04),
    Published("TankBind", "blind", 20.4, 4.0, 24.5, 6.3, 0.7),
    Published("P2Rank + GNINA", "blind", 28.8, 5.5, 38.3, None, 127),
    Published("EquiBind + GNINA", "blind", 28.8, 4.9, 39.1, None, 127),
    Published("DiffDock, 10 samples", "blind", 35.0, 3.6, 40.7, 15.7, 10),
    Published("DiffDock, 40 samples", "blind", 38.2, 3.3, 44.7, 20.8, 40),
    Published("DiffDock-S", "blind", 32.9, None, None, 13.9, 8.1),
    Published("DisCo-DiffDock-S", "blind", 35.4, None, None, 18.5, 9.1),
    Published("Uni-Dock", "pocket", 51.1, 1.9),
    Published("Surflex-Dock", "pocket", 68.0),
    Published("Glide", "pocket", 67.0),
)
