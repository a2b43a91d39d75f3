"""The `budget` program: which encoding and how many values of each tensor fit into so many bytes."""
