"""Writes phi in the forms that other libraries read, and into weights.

`peft_lora` and `peft_prefix` write folders of Hugging Face's PEFT,
`rotated_cache` makes a cache for `transformers`, and `merged` adds LoRA to the
weights of a checkpoint. docs/adapters.md says which phi leaves in which form.
"""
