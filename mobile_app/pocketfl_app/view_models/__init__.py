"""What the screens show, as properties; what a person does, as methods. Nothing here draws."""
