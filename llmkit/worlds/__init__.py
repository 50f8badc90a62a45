"""Worlds that a language model may come to know from sequences alone, and the measures of what it knows."""
