"""Made-up data whose truth is known: noisy pairs, and movies as a microscope would take them."""
