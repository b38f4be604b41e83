"""Networks of EDM's published pickles, read without running anything that they hold."""

from domains.images.published.edm import EDMNetwork, read_edm

__all__ = ["EDMNetwork", "read_edm"]
