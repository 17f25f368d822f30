"""Saving machines' memory, and starting machines from it. Part of the room `machines`."""
