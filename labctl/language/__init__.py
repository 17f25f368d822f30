"""What a topology may say, and what is wrong with one that says something else. Imports `base`; pure but for `catalog`,
which looks for files.
"""
