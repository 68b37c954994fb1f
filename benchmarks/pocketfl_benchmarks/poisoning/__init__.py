"""What devices that lie within the clip norm cost a model."""
