"""From text to ids, one way for training and for use."""
