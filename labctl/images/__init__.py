"""What machines are made of: the store, distributors' images, builds, bundles, and whether KVM works. Imports `base`,
`language` and `plan`.
"""
