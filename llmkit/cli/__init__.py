"""The command line: each command reads its input, calls one verb and shows what it gives."""
