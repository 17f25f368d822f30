"""Asking a lab whether it does what it should, and a machine whether it can run labs.

Imports the rooms up to `labs`.
"""
