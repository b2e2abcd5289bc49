"""Studies: files that list models to pre-train and evaluations of each; their runs, and tables."""
