"""Labs that exist: their records, bringing them up, down and back, and access to their nodes. Imports `machines` and
the rooms below it.
"""
