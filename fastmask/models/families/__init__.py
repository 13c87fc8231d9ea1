"""The encoder families that run packed, a file each, with its ``FAMILY``; ``family.FAMILIES`` lists them.

Models of any other family run by transformers' own forward.
"""
