"""Sources of audio: folders, manifests, and datasets described by recipes.

It may import storage and the layers below it.
"""
