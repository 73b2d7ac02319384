"""Data of one generator, made of any untouched photos: a mask, an inpainter, Dolos' layout.

Unlike :mod:`declip_pl.data.forgeries`, which no generator makes, this is what localizers are
trained and evaluated on: photos in which an inpainter of the user's choice has filled a hole.
"""
