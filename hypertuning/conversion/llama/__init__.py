"""Llama in Hugging Face's files and in GGUF, as ours."""
