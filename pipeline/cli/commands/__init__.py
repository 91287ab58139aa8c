"""The commands, one file for each or for several that belong together.

It may import `cli` and the layers below it.
"""
