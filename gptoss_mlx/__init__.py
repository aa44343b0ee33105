"""A runtime for OpenAI's open-weight gpt-oss models on MLX."""

__version__ = "0.1.0"
