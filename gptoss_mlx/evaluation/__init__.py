"""How good a model is: perplexity of a text, divergence from another model, right answers to tasks."""
