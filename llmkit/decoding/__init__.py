"""Ids in, ids out, and text from them: the one decode loop under every verb that generates."""
