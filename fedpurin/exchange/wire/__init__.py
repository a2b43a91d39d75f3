"""The wire format: messages, encodings, and what they cost.

`message.py` writes and reads a message; `costs.py` names the encodings of positions and their sizes, `index.py` chooses and
writes them; `codes.py` has the encodings of values below 16 bits, one object each.
"""
