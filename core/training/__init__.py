"""Training: one loop for every stage, with exact resume and data-parallel processes."""
