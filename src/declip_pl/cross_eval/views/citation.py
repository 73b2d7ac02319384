"""What a paper cites that uses the figures: ``cite.bib``."""

from declip_pl import __version__

FILE = "cite.bib"


def bibtex(commit: str | None) -> str:
    """Return the method's paper, its data and this package as BibTeX.

    Args:
        commit: Of the package's source that made the figures, if it is on record.
    """
    note = f"version {__version__}" + (f", commit {commit}" if commit else "")
    return f"""\
@inproceedings{{smeu2025declip,
  title     = {{{{DeCLIP}}: Decoding {{CLIP}} representations for deepfake localization}},
  author    = {{Smeu, Stefan and Oneata, Elisabeta and Oneata, Dan}},
  booktitle = {{IEEE/CVF Winter Conference on Applications of Computer Vision (WACV)}},
  year      = {{2025}},
  note      = {{arXiv:2409.08849}},
}}

@software{{declip_pl,
  title  = {{declip-pl: {{DeCLIP}} as a {{PyTorch}} {{Lightning}} experiment package}},
  author = {{{{The declip-pl developers}}}},
  note   = {{{note}}},
}}
"""
