"""AutoDock Vina's empirical scoring function on our graphs: its terms as features, and poses relaxed in its field."""
