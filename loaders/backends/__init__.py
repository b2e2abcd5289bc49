"""Back ends: one loader per decoder. They never import each other."""
