"""Everything that follows from a topology: nodes, addresses, steps, seeds, libvirt's XML. Pure. Imports `base` and
`language`.
"""
