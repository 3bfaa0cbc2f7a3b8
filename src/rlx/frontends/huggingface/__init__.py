"""Hugging Face model directories: config.json and safetensors -> `Model`."""

from rlx.frontends.huggingface.model import HuggingFaceModel, load_huggingface
from rlx.frontends.huggingface.safetensors import SafetensorsFile, open_safetensors

__all__ = ["HuggingFaceModel", "SafetensorsFile", "load_huggingface", "open_safetensors"]
