"""The topology language: what a topology may say, and what is wrong with one. Imports `base`. Pure but for
`catalog`, which looks for files.
"""
