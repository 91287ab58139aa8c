"""Features: one audio file → its mel windows.

It may import sources and the layers below it.
"""
