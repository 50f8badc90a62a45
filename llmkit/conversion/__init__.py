"""A checkpoint in another form."""
