"""The build: plan, workers, receipts, publication.

It may import publishing, clusters and the layers below them.
"""
