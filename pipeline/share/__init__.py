"""A store for others: card, table of tracks, Croissant, checksums.

It may import report and what stands before it.
"""
