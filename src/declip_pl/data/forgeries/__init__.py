"""Forgeries that no generator made: photos re-processed inside a random region.

What a localizer should learn is that one region went through something that the rest did not. Any
re-processing leaves such a trace, so that training photos can be made of untouched photos alone.

**No leakage.** Nothing here is a generator that localizers are evaluated on, or works like one:
no inpainting (Telea, Navier-Stokes, patch matching, diffusion of the border), no gradient-domain
blending (Poisson), no adversarial network, no published autoencoder of a generative model.
``tests/test_forgeries.py`` holds this module to it.
"""
