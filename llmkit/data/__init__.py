"""Training data: files and data sets to documents, documents to tokens, tokens to packed rows in a fixed order."""
