"""Where machines live, and how they are saved: private rooms, libvirt, keys. Imports the rooms below it: `images` to
`base`.
"""
