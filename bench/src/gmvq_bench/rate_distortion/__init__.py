"""Rate against distortion: tokenizers over K and beta, their tokens truly coded, beside JPEG and WebP."""
