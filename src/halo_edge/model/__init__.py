"""GGUF files, hyper-parameters, tokenizer, chat template, download. Imports no other room."""
