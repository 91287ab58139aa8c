"""What a person types and reads.

It may import share and what stands before it.
"""
