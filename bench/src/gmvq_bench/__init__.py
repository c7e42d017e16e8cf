"""What compares, measures and documents gmvq: rivals, suites, speed, studies, and the tables of the docs."""
