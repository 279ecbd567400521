"""A suite of small programs that carries patient-QA cases to a GPU queue and back."""

__version__ = "1.0.2"
