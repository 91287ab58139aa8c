"""The commands, each in a file.

It may import cli and what stands before it.
"""
