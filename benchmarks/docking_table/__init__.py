"""Docking methods compared on the same complexes: random placement, AutoDock Vina, models of ours."""
