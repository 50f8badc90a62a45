"""Othello: games, the model that is trained on them, and whether its hidden states hold the board.

    board.py        the rules, on bitboards, of many positions at once
    games.py        games: drawn at random, or replayed from their moves
    wthor.py        championship games of WTHOR files
    tokens.py       squares as tokens: the folder that `llmkit pretrain` reads, and a checkpoint that knows such tokens
    predicting.py   what a model says of a prefix: probabilities of moves, hidden states
    legality.py     whether its moves are legal, and how far it is from the best guess
    figures.py      means over games, with intervals
    playing.py      whole games of the model, with detours
    labels.py       what a probe is asked: boards, and the controls beside them
    probing.py      linear probes and a small network, by layer
    intervening.py  a square changed in the hidden states, and the moves that follow
    transposing.py  two ways to one board
    recovering.py   compression and distinction of boards
    measuring.py    all of it: worldmodel.json
    showing.py      single positions for the page
    reporting.py    the page that shows it: worldmodel.html
    match.py        a game against the model, and what it believes the board is

Source: Li and others 2023, Emergent world representations; Nanda and others 2023, Emergent linear representations in
world models of self-supervised sequence models; Vafa and others 2024, Evaluating the world model implicit in a
generative model.
"""
