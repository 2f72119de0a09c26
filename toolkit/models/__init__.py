"""Language models and scalar heads: loaded strictly, seen as log-probs and values, saved as Hugging Face folders."""
