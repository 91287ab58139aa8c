"""The build: plan, workers, receipts, publication.

It may import publishing, clusters and what stands before them.
"""
