"""Language models and scalar heads.

Loaded strictly, seen as log-probs and values, saved as Hugging Face folders.
"""
