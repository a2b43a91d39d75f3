"""From scores to a small exact core: passes over the scores, value curves, reductions by price."""
