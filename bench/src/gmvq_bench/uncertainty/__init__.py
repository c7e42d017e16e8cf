"""Does a tokenizer know when it errs, and which images are new to it; ``gmvq uncertainty``."""
