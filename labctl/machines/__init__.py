"""Where machines live, and how they are saved: rooms, libvirt, keys. Imports the rooms up to `images`."""
