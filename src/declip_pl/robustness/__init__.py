"""How localizers do on photos that were compressed, resized, blurred or sent around."""
