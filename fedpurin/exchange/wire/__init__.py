"""The wire format: messages, encodings, and what they cost."""
