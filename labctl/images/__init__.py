"""What machines are made from: the image store, distributors' images, builds, bundles, and whether KVM works. Imports
`base`, `language` and `plan`.
"""
