"""Recipes: what a run is, as a YAML file and as typed values; nothing here imports torch."""
