"""Checks of what labs do, and of whether a machine can run labs. Imports `labs` and the rooms below it."""
