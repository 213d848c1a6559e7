"""The stages of an installation in an app of faust-streaming that a team already has."""
