"""The offline experiment: a stream of drawn objects, the paper's claims in small, and their page (spec section 9)."""
