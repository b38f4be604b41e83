"""The backbone that options ask for."""

from domains.docking.networks.backbone import Backbone, BackboneOptions
from domains.docking.networks.vector import VectorBackbone


def make_backbone(options: BackboneOptions, receptor: bool) -> Backbone | VectorBackbone:
    """receptor: whether heads read the residues' features."""
    return VectorBackbone(options, receptor) if options.network == "vector" else Backbone(options)
