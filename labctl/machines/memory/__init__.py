"""What a machine had in its memory when it was saved, and how it goes on from that. Part of the room `machines`."""
