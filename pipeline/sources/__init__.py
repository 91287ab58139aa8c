"""Where audio comes from: folders, manifests, and datasets by their recipes.

It may import storage and what stands before it.
"""
