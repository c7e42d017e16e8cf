"""The command ``gmvq``: training, measuring and looking into tokenizers without writing code."""
