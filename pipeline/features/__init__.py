"""One audio file → its mel windows.

It may import sources and what stands before it.
"""
