"""Make stores from other stores: append, merge, select.

It may import builder and the layers below it.
"""
