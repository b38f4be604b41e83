"""Binding-site finder: points around a protein, what surrounds each, a learned ligandability, and sites out of them."""
