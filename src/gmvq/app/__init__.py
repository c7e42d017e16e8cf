"""A tokenizer in the browser: a page served from this machine (``gmvq app``), and one without a server (``--web``)."""
