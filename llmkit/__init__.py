"""Pretrain, fine-tune and use GPT-2-class language models: thin wrappers over Hugging Face Transformers."""

__version__ = "0.1.0"
__all__ = ["__version__"]
