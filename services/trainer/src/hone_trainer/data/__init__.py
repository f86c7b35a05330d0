"""From whatever files people have to records, in one direction:

files (which are meant) → reading (rows) → formats, messages (records) → cleaning, filters →
duplicates → tokens → choosing (sampling, split) → report, dataset (sealed).
"""
