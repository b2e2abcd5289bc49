"""HTML pages of runs: what is in their folders, as sections, tables and charts."""
