"""The user's verbs, each a few lines over loading, encoding and decoding."""
