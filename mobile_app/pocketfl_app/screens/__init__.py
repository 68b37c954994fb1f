"""How the app looks: the theme and one ``.kv`` file per screen."""
