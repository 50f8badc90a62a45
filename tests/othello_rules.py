"""Othello the slow and obvious way: a dict of squares, black 1 and white 0, walked disc by disc; files of games."""

WAYS = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b]


class Table:
    """One game."""

    def __init__(self, size):
        low, high = size // 2 - 1, size // 2
        self.size, self.side = size, 1
        self.discs = {(low, low): 0, (high, high): 0, (high, low): 1, (low, high): 1}

    def turned(self, square, side):
        """The discs that a move turns over; none where it is not legal."""
        if square in self.discs:
            return []
        found = []
        for a, b in WAYS:
            x, y, run = square[0] + a, square[1] + b, []
            while self.discs.get((x, y)) == 1 - side:
                run.append((x, y))
                x, y = x + a, y + b
            if self.discs.get((x, y)) == side:
                found += run
        return found

    def legal(self, side=None):
        """The squares, as (column, row), that a side may take."""
        side = self.side if side is None else side
        squares = [(c, r) for r in range(self.size) for c in range(self.size)]
        return {square for square in squares if self.turned(square, side)}

    def settle(self):
        """Pass where the side to move must and the other can."""
        if not self.legal() and self.legal(1 - self.side):
            self.side = 1 - self.side

    def play(self, square):
        """Take a square, and let the side that must pass do so."""
        turned = self.turned(square, self.side)
        assert turned, f"{square} is not legal"
        for one in [square, *turned]:
            self.discs[one] = self.side
        self.side = 1 - self.side
        self.settle()


def to_square(bit):
    """A bit as (column, row)."""
    return int(bit) % 8, int(bit) // 8


def to_bits(squares):
    """Squares as a bitboard."""
    return sum(1 << (8 * row + column) for column, row in squares)


def write_wthor(path, records, **changes):
    """Write a WTHOR file: of each game its moves, 10 times the row plus the column."""
    header = bytearray(16)
    header[4:8] = len(records).to_bytes(4, "little")
    header[12] = changes.get("size", 8)
    path.write_bytes(bytes(header) + b"".join(bytes(8) + bytes(moves) + bytes(60 - len(moves)) for moves in records))
    return path
