"""Sharing a store as a dataset: card, table of tracks, Croissant, checksums.

It may import `report` and the layers below it.
"""
