"""A lab that exists: its record, its way up and down and back, and access to its nodes. Imports the rooms up to
`machines`.
"""
