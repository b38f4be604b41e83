"""B samples to train on or to generate: complexes, which of them each sample belongs to, and ligand poses."""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.errors import DataError
from domains.docking.complex import Complex
from domains.docking.graph import Structure
from domains.docking.pose import Pose, pose_of


@dataclass(frozen=True)
class DockingBatch:
    """What is known of B samples.

    ids: [B] numbers of the random streams; complexes: the different complexes; index: [B] complex of each sample;
    fields: clean poses, None in a request. Copies made by ``select`` share what was built from the graphs.
    """

    ids: Int[Tensor, " b"]
    complexes: tuple[Complex, ...]
    index: tuple[int, ...]
    fields: Pose | None = None
    label: None = None
    built: dict[tuple[tuple[int, ...], str, torch.dtype], Structure] = field(default_factory=dict, compare=False)

    @property
    def size(self) -> int:
        return len(self.index)

    @property
    def categories(self) -> Int[Tensor, " b"]:
        """[B] nodes of every sample's complex: what a pointer latent can name."""
        return torch.tensor([self.complexes[i].nodes for i in self.index], device=self.ids.device)

    @property
    def clean(self) -> Pose:
        """Clean poses; raises ValueError in a generation request, which has none."""
        if self.fields is None:
            raise ValueError("this batch is a generation request: it carries no clean poses")
        return self.fields

    def to(self, device: torch.device | str) -> "DockingBatch":
        fields = None if self.fields is None else self.fields.to(device)
        return replace(self, ids=self.ids.to(device), fields=fields)

    def select(self, index: Tensor | slice) -> "DockingBatch":
        """The samples at ``index``, in that order (repeats allowed)."""
        numbers = torch.arange(self.size)[index.cpu() if isinstance(index, Tensor) else index].tolist()
        fields = None if self.fields is None else self.fields.select(index)
        return replace(self, ids=self.ids[index], index=tuple(self.index[i] for i in numbers), fields=fields)

    def structure(self, dtype: torch.dtype) -> Structure:
        """What the networks read, on the device of ``ids``; kept, because steps of a sampler ask again and again."""
        device = self.ids.device
        key = (self.index, str(device), dtype)
        if key not in self.built:
            self.built[key] = Structure.of([self.complexes[i].graph for i in self.index]).to(device, dtype)
        return self.built[key]

    def poses(self, which: str) -> Pose:
        """Every ligand as its graph holds it: the conformer (``pos``), the true pose (``crystal``), or the conformer
        laid on it (``matched``). Raises DataError where a complex has no true pose."""
        for i in set(self.index):
            if which not in self.complexes[i].graph["ligand"]:
                raise DataError(f"{self.complexes[i].name}: its true pose is not known, and this needs it")
        ligands = (self.complexes[i].graph for i in self.index)
        return Pose.concatenate([pose_of(graph, graph["ligand"][which]) for graph in ligands]).to(self.ids.device)

    def conformers(self) -> Pose:
        """Every ligand's conformer."""
        return self.poses("pos")

    def crystal(self, dtype: torch.dtype) -> Float[Tensor, "atoms 3"]:
        """Atoms of the true poses, sample after sample."""
        return self.poses("crystal").flat.to(dtype)
