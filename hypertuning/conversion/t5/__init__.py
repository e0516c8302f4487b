"""T5 1.1 and its kin in Hugging Face's files and in GGUF, as ours."""
