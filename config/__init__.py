"""What is declared: site files, their schema, loading and checking; status codes, units, points.

The bottom floor of the house: this package imports nothing of ours (DESIGN section 1).
"""
