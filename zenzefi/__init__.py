"""zenzefi: a prepaid, time-boxed HTTP access gateway."""

__version__ = "0.1.0"
