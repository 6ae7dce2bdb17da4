"""Config files become plain nodes, and nodes become objects."""
