"""``disco dock``: from proteins and ligands in files to ranked poses, for one complex or a hundred thousand."""
